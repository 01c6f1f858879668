// Marks arithmetic that the CPU and the CUDA kernels share.
#pragma once

#if defined(__CUDACC__)
#define DEITSEC_INLINE __host__ __device__ __forceinline__
#else
#define DEITSEC_INLINE inline __attribute__((always_inline))
#endif
