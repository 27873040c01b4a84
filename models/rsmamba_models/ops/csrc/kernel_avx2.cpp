// The kernels for AVX2 with FMA; empty when the compiler or the target does not know it.
#define RSMAMBA_NS rsmamba_avx2
#if defined(__AVX2__) && defined(__FMA__)
#include "backward.h"
#include "forward.h"
namespace rsmamba {
const Kernels kKernelsAvx2 = RSMAMBA_KERNELS;
}
#else
#include "scan.h"
namespace rsmamba {
const Kernels kKernelsAvx2 = {};
}
#endif
