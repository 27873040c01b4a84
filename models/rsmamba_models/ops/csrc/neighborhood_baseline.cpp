// Neighbourhood attention for any processor: SSE2 on x86-64, NEON on 64-bit Arm.
#define RSMAMBA_NS rsmamba_baseline
#include "neighborhood_backward.h"
namespace rsmamba {
const NeighborhoodKernels kNeighborhoodBaseline = RSMAMBA_NEIGHBORHOOD_KERNELS;
}
