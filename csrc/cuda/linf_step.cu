// See deitsec/ops/linf_step.py for the meaning.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.h"
#include "math/linf_step.h"

namespace deitsec {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerProcessor = 8;  // 2,048 threads, all that a processor holds

// `out` may be `x`: every thread reads its elements before it writes them.
template <class T, class Clean, int kCount>
__global__ void __launch_bounds__(kThreads)
    linf_step_kernel(T* out, const T* x, const T* __restrict__ grad, const Clean* __restrict__ x0,
                     int64_t size, LinfStep step) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t packs = size / kCount;
  for (int64_t pack = thread; pack < packs; pack += threads) {
    const auto xs = reinterpret_cast<const Pack<T, kCount>*>(x)[pack];
    const auto grads = reinterpret_cast<const Pack<T, kCount>*>(grad)[pack];
    const auto cleans = reinterpret_cast<const Pack<Clean, kCount>*>(x0)[pack];
    Pack<T, kCount> outs;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      outs.values[i] = narrow<T>(linf_step(widen(xs.values[i]), widen(grads.values[i]),
                                           clean_value(cleans.values[i]), step));
    }
    reinterpret_cast<Pack<T, kCount>*>(out)[pack] = outs;
  }
  for (int64_t i = packs * kCount + thread; i < size; i += threads) {
    out[i] = narrow<T>(linf_step(widen(x[i]), widen(grad[i]), clean_value(x0[i]), step));
  }
}

bool aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

template <class T, class Clean>
void launch(T* out, const T* x, const T* grad, const Clean* x0, int64_t size, LinfStep step,
            cudaStream_t stream) {
  constexpr int kCount = kPack<T>;
  const bool packed = aligned(out, kPackBytes) && aligned(x, kPackBytes) &&
                      aligned(grad, kPackBytes) && aligned(x0, kCount * sizeof(Clean));
  const int64_t per_block = kThreads * (packed ? kCount : 1);
  const unsigned int blocks = grid_size((size + per_block - 1) / per_block, kBlocksPerProcessor);
  auto* kernel = packed ? linf_step_kernel<T, Clean, kCount> : linf_step_kernel<T, Clean, 1>;
  kernel<<<blocks, kThreads, 0, stream>>>(out, x, grad, x0, size, step);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void step_into(const Tensor& out, const Tensor& x, const Tensor& grad, const Tensor& x0,
               double alpha, double eps) {
  const char* op = "linf_step";
  const ScalarType dtype = x.scalar_type();
  check_like(op, x, x);
  check_like(op, grad, x);
  check_like(op, x0, x);
  check_dtype(op, grad, dtype);
  if (x.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  with_float_type(op, dtype, [&](auto element) {
    using T = decltype(element);
    with_clean_type<T>(op, x0, dtype, [&](auto clean) {
      launch(output<T>(out), input<T>(x), input<T>(grad), input<decltype(clean)>(x0), x.numel(),
             LinfStep{static_cast<float>(alpha), static_cast<float>(eps)}, current_stream(x));
    });
  });
}

Tensor linf_step_out(const Tensor& x, const Tensor& grad, const Tensor& x0, double alpha,
                     double eps) {
  Tensor out = torch::stable::empty_like(x);
  step_into(out, x, grad, x0, alpha, eps);
  return out;
}

void linf_step_inplace(const Tensor& x, const Tensor& grad, const Tensor& x0, double alpha,
                       double eps) {
  step_into(x, x, grad, x0, alpha, eps);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cuda, CUDA, m) {
  m.impl("linf_step", TORCH_BOX(&linf_step_out));
  m.impl("linf_step_", TORCH_BOX(&linf_step_inplace));
}

}  // namespace deitsec
