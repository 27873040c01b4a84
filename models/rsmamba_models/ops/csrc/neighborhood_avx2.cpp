// Neighbourhood attention for AVX2 with FMA; empty when compiler or target does not know it.
#define RSMAMBA_NS rsmamba_avx2
#if defined(__AVX2__) && defined(__FMA__)
#include "neighborhood_backward.h"
namespace rsmamba {
const NeighborhoodKernels kNeighborhoodAvx2 = RSMAMBA_NEIGHBORHOOD_KERNELS;
}
#else
#include "neighborhood.h"
namespace rsmamba {
const NeighborhoodKernels kNeighborhoodAvx2 = {};
}
#endif
