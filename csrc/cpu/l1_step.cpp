// See deitsec/ops/l1_step.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "check.h"
#include "cpu/clones.h"
#include "cpu/l1_ball.h"
#include "cpu/rows.h"
#include "math/linf_step.h"
#include "math/number.h"

namespace deitsec {
namespace {

constexpr int kBins = 2048;       // the exponent and three bits of the mantissa
constexpr int kBinShift = 20;     // of the 31 bits of a magnitude
constexpr int64_t kSmall = 2048;  // rows that a histogram does not pay for
constexpr uint32_t kInfinity = 0x7F800000u;

// |grad| as a number whose order is that of the magnitudes; NaN is 0, and so never moves.
DEITSEC_INLINE uint32_t rank_of(float grad) {
  const uint32_t bits = to_bits(grad) & 0x7FFFFFFFu;
  return bits > kInfinity ? 0u : bits;
}

template <class T>
DEITSEC_CLONES void row_ranks(uint32_t* ranks, const T* grad, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) ranks[i] = rank_of(widen(grad[i]));
}

// The coordinates that move: those of at least this rank, and how many they are.
struct Selection {
  uint32_t least;
  int64_t count;
};

// The bin of the histogram that holds the k-th largest: its ranks, and those in higher bins.
struct Bin {
  int64_t size;
  int64_t above;
};

// Moves the ranks of that bin to the front.
Bin gather_bin(uint32_t* ranks, int64_t size, int64_t k) {
  // two histograms, so that equal neighbours do not wait for each other
  std::array<std::array<uint32_t, kBins>, 2> counts{};
  for (int64_t i = 0; i + 1 < size; i += 2) {
    ++counts[0][ranks[i] >> kBinShift];
    ++counts[1][ranks[i + 1] >> kBinShift];
  }
  if (size % 2 != 0) ++counts[0][ranks[size - 1] >> kBinShift];
  int64_t above = 0;
  uint32_t bin = kBins - 1;
  for (; bin > 0; --bin) {
    const int64_t held = static_cast<int64_t>(counts[0][bin]) + counts[1][bin];
    if (above + held >= k) break;
    above += held;
  }
  int64_t found = 0;
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t rank = ranks[i];
    ranks[found] = rank;  // found <= i
    found += rank >> kBinShift == bin;
  }
  return {found, above};
}

// Selects by the bits of the magnitudes; uses up the ranks.
Selection select(uint32_t* ranks, int64_t size, int64_t k) {
  const Bin bin = size > kSmall ? gather_bin(ranks, size, k) : Bin{size, 0};
  uint32_t* end = ranks + bin.size;
  uint32_t* at = ranks + (k - bin.above - 1);
  std::nth_element(ranks, at, end, std::greater<>());
  const uint32_t least = std::max(*at, 1u);  // a gradient of 0 never moves
  return {least, bin.above + std::count_if(ranks, end, [&](uint32_t r) { return r >= least; })};
}

struct Move {
  uint32_t least;
  float share;
};

DEITSEC_INLINE float moved(float x, float grad, float clean, Move move) {
  const float along = grad > 0.0f ? move.share : -move.share;
  return (x - clean) + (rank_of(grad) >= move.least ? along : 0.0f);
}

template <class T>
DEITSEC_CLONES void load_entries(float* deltas, float* clean, const T* x, const T* grad,
                                 const T* x0, int64_t size, Move move) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    clean[i] = widen(x0[i]);
    deltas[i] = moved(widen(x[i]), widen(grad[i]), clean[i], move);
  }
}

template <class T>
void gather_row(Perturbation& v, const T* x, const T* grad, const T* x0, int64_t elements,
                Move move) {
  float deltas[kEntries], clean[kEntries];
  v.count = 0;
  for (int64_t begin = 0; begin < elements; begin += kEntries) {
    const int64_t size = std::min(kEntries, elements - begin);
    load_entries(deltas, clean, x + begin, grad + begin, x0 + begin, size, move);
    v.add(deltas, clean, size);
  }
}

template <class T>
DEITSEC_CLONES void project_row(T* out, const T* x, const T* grad, const T* x0, int64_t size,
                                Move move, float lambda, float low, float high) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float clean = widen(x0[i]);
    const float delta = moved(widen(x[i]), widen(grad[i]), clean, move);
    out[i] = narrow<T>(clamp(project_entry(delta, clean, lambda), low, high));
  }
}

void step_into(const Tensor& out, const Tensor& x, const Tensor& grad, const Tensor& x0,
               const Tensor& k, double alpha, double eps) {
  const char* op = "l1_step";
  const ScalarType dtype = x.scalar_type();
  for (const Tensor* tensor : {&x, &grad, &x0}) {
    check_like(op, *tensor, x);
    check_dtype(op, *tensor, dtype);
  }
  const Rows rows = rows_of(op, x);
  check_dtype(op, k, ScalarType::Long);
  STD_TORCH_CHECK(k.is_contiguous() && (rows.count == 0 || k.numel() == rows.count), op,
                  ": expected one contiguous k for each row, got ", k.numel());
  const auto* wanted = input<int64_t>(k);
  with_float_type(op, dtype, [&](auto element) {
    using T = decltype(element);
    for_rows(rows, [&](int64_t first, int64_t last) {
      std::vector<uint32_t> ranks(rows.elements);
      Perturbation v(rows.elements);
      for (int64_t row = first; row < last; ++row) {
        const int64_t begin = row * rows.elements;
        const T* iterate = input<T>(x) + begin;
        const T* slope = input<T>(grad) + begin;
        const T* clean = input<T>(x0) + begin;
        row_ranks(ranks.data(), slope, rows.elements);
        const int64_t most = std::clamp<int64_t>(wanted[row], 1, rows.elements);
        const Selection chosen = select(ranks.data(), rows.elements, most);
        const double share = alpha / static_cast<double>(std::max<int64_t>(1, chosen.count));
        const Move move{chosen.least, static_cast<float>(share)};
        gather_row(v, iterate, slope, clean, rows.elements, move);
        const auto lambda = static_cast<float>(find_lambda(v, eps));
        project_row(output<T>(out) + begin, iterate, slope, clean, rows.elements, move, lambda,
                    0.0f, 1.0f);
      }
    });
  });
}

Tensor l1_step_out(const Tensor& x, const Tensor& grad, const Tensor& x0, const Tensor& k,
                   double alpha, double eps) {
  Tensor out = torch::stable::empty_like(x);
  step_into(out, x, grad, x0, k, alpha, eps);
  return out;
}

void l1_step_inplace(const Tensor& x, const Tensor& grad, const Tensor& x0, const Tensor& k,
                     double alpha, double eps) {
  step_into(x, x, grad, x0, k, alpha, eps);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("l1_step", TORCH_BOX(&l1_step_out));
  m.impl("l1_step_", TORCH_BOX(&l1_step_inplace));
}

}  // namespace deitsec
