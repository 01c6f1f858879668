// The checks that keep a kernel inside its buffers. What users read is raised in Python.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "math/number.h"

namespace deitsec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Same number of elements, and contiguous.
inline void check_like(const char* op, const Tensor& tensor, const Tensor& first) {
  STD_TORCH_CHECK(tensor.is_contiguous(), op, ": tensors must be contiguous");
  STD_TORCH_CHECK(tensor.numel() == first.numel(), op, ": expected ", first.numel(),
                  " elements, got ", tensor.numel());
}

inline void check_dtype(const char* op, const Tensor& tensor, ScalarType dtype) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, op, ": expected ",
                  torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
}

// (rows, classes), with few enough classes that the kernels count them in 32 bits.
inline void check_logits(const char* op, const Tensor& logits) {
  STD_TORCH_CHECK(logits.dim() == 2, op, ": expected (rows, classes), got ", logits.dim(),
                  " dimensions");
  STD_TORCH_CHECK(logits.size(1) <= (1 << 30), op, ": too many classes: ", logits.size(1));
  check_like(op, logits, logits);
}

// Every label names a class. Python turns the error into an IndexError.
inline void check_labels(const char* op, const Tensor& labels, int64_t rows, int64_t classes,
                         const char* what = "label") {
  check_dtype(op, labels, ScalarType::Long);
  STD_TORCH_CHECK(labels.is_contiguous() && labels.numel() == rows, op, ": expected ", rows,
                  " contiguous ", what, "s, got ", labels.numel());
  const auto* values = static_cast<const int64_t*>(labels.const_data_ptr());
  for (int64_t row = 0; row < rows; ++row) {
    STD_TORCH_CHECK(values[row] >= 0 && values[row] < classes, op, ": ", what, " ", values[row],
                    " of row ", row, " is out of range for ", classes, " classes");
  }
}

// Calls `use` with a value of the element type behind a floating dtype.
template <class Use>
void with_float_type(const char* op, ScalarType dtype, const Use& use) {
  switch (dtype) {
    case ScalarType::Float:
      return use(float{});
    case ScalarType::BFloat16:
      return use(BFloat16{});
    case ScalarType::Half:
      return use(Half{});
    default:
      STD_TORCH_CHECK(false, op, ": no kernel for ", torch::headeronly::toString(dtype));
  }
}

// Calls `use` with a value of the element type of the clean image: uint8 or the iterate's.
template <class T, class Use>
void with_clean_type(const char* op, const Tensor& x0, ScalarType dtype, const Use& use) {
  if (x0.scalar_type() == ScalarType::Byte) return use(uint8_t{});
  check_dtype(op, x0, dtype);
  return use(T{});
}

template <class T>
const T* input(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* output(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace deitsec
