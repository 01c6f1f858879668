// What every CUDA kernel needs around it: the current stream, a grid size, 128-bit packs.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <cstdint>

#include "check.h"

namespace deitsec {

constexpr int kPackBytes = 16;

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

// Elements of T in one 128-bit access.
template <class T>
constexpr int kPack = kPackBytes / sizeof(T);

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Blocks for `work` blocks' worth of work in a grid-stride loop: no more than fit the device at
// once. The device must be current.
inline unsigned int grid_size(int64_t work, int blocks_per_processor) {
  int device = 0, processors = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  const int64_t most = static_cast<int64_t>(processors) * blocks_per_processor;
  return static_cast<unsigned int>(std::max<int64_t>(1, std::min(work, most)));
}

}  // namespace deitsec
