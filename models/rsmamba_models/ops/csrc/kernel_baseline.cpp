// The kernels for any processor of the platform: SSE2 on x86-64, NEON on 64-bit Arm.
#define RSMAMBA_NS rsmamba_baseline
#include "backward.h"
#include "forward.h"
namespace rsmamba {
const Kernels kKernelsBaseline = RSMAMBA_KERNELS;
}
