// Neighbourhood attention for AVX-512; empty when the compiler or the target does not know it.
#define RSMAMBA_NS rsmamba_avx512
#if defined(__AVX512F__)
#include "neighborhood_backward.h"
namespace rsmamba {
const NeighborhoodKernels kNeighborhoodAvx512 = RSMAMBA_NEIGHBORHOOD_KERNELS;
}
#else
#include "neighborhood.h"
namespace rsmamba {
const NeighborhoodKernels kNeighborhoodAvx512 = {};
}
#endif
