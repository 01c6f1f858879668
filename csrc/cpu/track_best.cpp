// See deitsec/ops/track_best.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "check.h"

namespace deitsec {
namespace {

constexpr int64_t kGrain = 65536;  // bytes below which a second thread costs more than it saves

struct Kept {
  const bool* success;
  const float* score;
};

// Reads a row before it writes it, so `success` and `score` may be those of `kept`.
void take_over(Kept kept, Kept offered, bool keep_first, int64_t rows, bool* success, float* score,
               bool* better) {
  for (int64_t row = 0; row < rows; ++row) {
    const bool was = kept.success[row], is = offered.success[row];
    const float old = kept.score[row], value = offered.score[row];
    const bool higher = value > old && !(keep_first && is);
    const bool takes = value == value && ((is && !was) || (is == was && higher));
    better[row] = takes;
    success[row] = was || (is && takes);
    score[row] = takes ? value : old;
  }
}

int64_t check_rows(const char* op, const Tensor& best, const Tensor& best_success,
                   const Tensor& best_score, const Tensor& x, const Tensor& success,
                   const Tensor& score) {
  STD_TORCH_CHECK(best.dim() > 0, op, ": expected rows");
  const int64_t rows = best.size(0);
  check_like(op, best, best);
  check_like(op, x, best);
  check_dtype(op, x, best.scalar_type());
  for (const Tensor* flags : {&best_success, &success}) check_dtype(op, *flags, ScalarType::Bool);
  for (const Tensor* scores : {&best_score, &score}) check_dtype(op, *scores, ScalarType::Float);
  for (const Tensor* of_row : {&best_success, &best_score, &success, &score}) {
    STD_TORCH_CHECK(of_row->is_contiguous() && of_row->numel() == rows, op, ": expected ", rows,
                    " contiguous values, got ", of_row->numel());
  }
  return rows;
}

// Writes each row of `out` from x where it is better, else from `best`, unless that is `out`.
void copy_rows(const char* op, const Tensor& out, const Tensor& best, const Tensor& x,
               const bool* better, int64_t rows) {
  with_float_type(op, x.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const int64_t elements = rows == 0 ? 0 : x.numel() / rows;
    const size_t bytes = elements * sizeof(T);
    T* to = output<T>(out);
    const T *taken = input<T>(x), *kept = input<T>(best);
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, bytes));
    torch::stable::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const T* from = (better[row] ? taken : kept) + row * elements;
        T* there = to + row * elements;
        if (from != there) std::memcpy(there, from, bytes);
      }
    });
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> track_best(const Tensor& best,
                                                      const Tensor& best_success,
                                                      const Tensor& best_score, const Tensor& x,
                                                      const Tensor& success, const Tensor& score,
                                                      bool keep_first) {
  const char* op = "track_best";
  const int64_t rows = check_rows(op, best, best_success, best_score, x, success, score);
  Tensor out = torch::stable::empty_like(best);
  Tensor out_success = torch::stable::empty_like(best_success);
  Tensor out_score = torch::stable::empty_like(best_score);
  Tensor better = torch::stable::empty_like(success);
  take_over({input<bool>(best_success), input<float>(best_score)},
            {input<bool>(success), input<float>(score)}, keep_first, rows,
            output<bool>(out_success), output<float>(out_score), output<bool>(better));
  copy_rows(op, out, best, x, input<bool>(better), rows);
  return {out, out_success, out_score, better};
}

Tensor track_best_inplace(const Tensor& best, const Tensor& best_success, const Tensor& best_score,
                          const Tensor& x, const Tensor& success, const Tensor& score,
                          bool keep_first) {
  const char* op = "track_best_";
  const int64_t rows = check_rows(op, best, best_success, best_score, x, success, score);
  Tensor better = torch::stable::empty_like(success);
  take_over({input<bool>(best_success), input<float>(best_score)},
            {input<bool>(success), input<float>(score)}, keep_first, rows,
            output<bool>(best_success), output<float>(best_score), output<bool>(better));
  copy_rows(op, best, best, x, input<bool>(better), rows);
  return better;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("track_best", TORCH_BOX(&track_best));
  m.impl("track_best_", TORCH_BOX(&track_best_inplace));
}

}  // namespace deitsec
