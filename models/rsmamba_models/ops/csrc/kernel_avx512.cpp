// The kernels for AVX-512; empty when the compiler or the target does not know it.
#define RSMAMBA_NS rsmamba_avx512
#if defined(__AVX512F__)
#include "backward.h"
#include "forward.h"
namespace rsmamba {
const Kernels kKernelsAvx512 = RSMAMBA_KERNELS;
}
#else
#include "scan.h"
namespace rsmamba {
const Kernels kKernelsAvx512 = {};
}
#endif
