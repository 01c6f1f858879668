// The nearest point of a hyperplane within the box of images, in L-infinity, L2 or L1, shared by
// fab_projection and fab_step. See deitsec/ops/fab_projection.py for the meaning.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/clones.h"
#include "math/number.h"

namespace deitsec {

constexpr double kEverything = std::numeric_limits<double>::infinity();

// The way towards the plane, 1 or -1, where its value is positive or not.
DEITSEC_INLINE float towards(float slope, bool positive) {
  return (slope > 0.0f) != positive ? 1.0f : -1.0f;
}

// How far an entry may go that way. In double, where 1 - x is exact: an L1 move adds up thousands.
DEITSEC_INLINE double room_towards(float x, float slope, bool positive) {
  const double wide = x;
  const double room = (slope > 0.0f) != positive ? 1.0 - wide : wide;
  return room < 0.0 ? 0.0 : room;
}

// A row's point and its plane.
template <class T>
struct Plane {
  const T* x;
  const T* slope;
  int64_t count;
  double value;       // at x
  double full = 0.0;  // what all rooms together give

  bool positive() const { return value > 0.0; }
  double gap() const { return std::fabs(value); }
};

// Adds up what all rooms give; false where there is no plane: a NaN or an infinity.
template <class T>
DEITSEC_CLONES bool measure(Plane<T>* plane) {
  const T *x = plane->x, *slope = plane->slope;
  const bool positive = plane->positive();
  double full = 0.0, mass = 0.0;
#pragma omp simd reduction(+ : full, mass)
  for (int64_t i = 0; i < plane->count; ++i) {
    const float along = widen(slope[i]);
    const double size = std::fabs(along);
    full += size * room_towards(widen(x[i]), along, positive);
    mass += size;
  }
  plane->full = full;
  return std::isfinite(mass) && std::isfinite(plane->value);
}

// The entries that stop at their rooms before lambda, and those that do not.
struct Split {
  double stopped;  // what the former give
  double pace;     // what the latter give for each unit of lambda
  int64_t count;   // of the former
};

template <bool weighted, class T>
DEITSEC_CLONES Split split_at(const T* x, const T* slope, int64_t count, bool positive,
                              double lambda) {
  double stopped = 0.0, pace = 0.0;
  int64_t number = 0;
#pragma omp simd reduction(+ : stopped, pace, number)
  for (int64_t i = 0; i < count; ++i) {
    const float along = widen(slope[i]);
    const double size = std::fabs(along);
    const double room = room_towards(widen(x[i]), along, positive);
    const double reach = weighted ? size : 1.0;
    const bool stops = room <= lambda * reach;
    stopped += stops ? size * room : 0.0;
    pace += stops ? 0.0 : size * reach;
    number += stops;
  }
  return {stopped, pace, number};
}

// The lambda at which the entries close the gap together. What they give is concave and piecewise
// linear in lambda, so Newton's method from 0 never passes the answer and ends on its piece: the
// missing part times the pace falls by a factor of 4 or more each time. No sort.
template <bool weighted, class T>
double find_reach(const Plane<T>& plane) {
  const double gap = plane.gap();
  if (!(gap > 0.0)) return 0.0;
  if (gap >= plane.full) return kEverything;
  double lambda = 0.0;
  for (int64_t before = -1;;) {
    const Split now =
        split_at<weighted>(plane.x, plane.slope, plane.count, plane.positive(), lambda);
    if (now.count == before || !(now.pace > 0.0)) return lambda;
    before = now.count;
    lambda = std::max(lambda, (gap - now.stopped) / now.pace);
  }
}

// In L-infinity every entry goes as far as lambda.
struct MoveLinf {
  double lambda;
  template <class T>
  explicit MoveLinf(const Plane<T>& plane) : lambda(find_reach<false>(plane)) {}
  DEITSEC_INLINE double amount(float size, double room) const {
    const double most = lambda < room ? lambda : room;
    return size > 0.0f ? most : 0.0;
  }
  DEITSEC_INLINE static double gathered(double length, double amount) {
    return length < amount ? amount : length;
  }
  static double norm(double length) { return length; }
};

// In L2 an entry goes as far as lambda times its slope.
struct MoveL2 {
  double lambda;
  template <class T>
  explicit MoveL2(const Plane<T>& plane) : lambda(find_reach<true>(plane)) {}
  DEITSEC_INLINE double amount(float size, double room) const {
    const double wanted = lambda * size;
    const double most = wanted < room ? wanted : room;
    return size > 0.0f ? most : 0.0;
  }
  DEITSEC_INLINE static double gathered(double length, double amount) {
    return length + amount * amount;
  }
  static double norm(double length) { return std::sqrt(length); }
};

// In L1 the steepest entries go all the way, and those that share the least slope a part of it.
struct MoveL1 {
  float least = 0.0f;
  double share = 1.0;
  template <class T>
  explicit MoveL1(const Plane<T>& plane) {
    const double gap = plane.gap();
    if (!(gap > 0.0)) least = std::numeric_limits<float>::infinity();
    if (!(gap > 0.0) || gap >= plane.full) return;
    int64_t count = plane.count;
    std::vector<uint32_t> ranks(count);
    std::vector<double> gives(count);
    rank_row(ranks.data(), gives.data(), plane.x, plane.slope, count, plane.positive());
    double above = 0.0;
    for (const auto& [shift, bins] : {std::pair{20, 2048u}, {9, 2048u}, {0, 512u}}) {
      count = keep_bin(ranks.data(), gives.data(), count, shift, bins, gap, &above);
    }
    double tied = 0.0;
    for (int64_t i = 0; i < count; ++i) tied += gives[i];
    least = from_bits(ranks[0]);
    share = tied > 0.0 ? std::min(1.0, (gap - above) / tied) : 1.0;
  }
  // Magnitudes of the slopes as numbers of their order, and what each entry gives at its room.
  template <class T>
  DEITSEC_CLONES static void rank_row(uint32_t* ranks, double* gives, const T* x, const T* slope,
                                      int64_t count, bool positive) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const float along = widen(slope[i]);
      ranks[i] = to_bits(std::fabs(along));
      gives[i] = std::fabs(along) * room_towards(widen(x[i]), along, positive);
    }
  }
  // Moves the entries of the bin in which the gap is reached to the front; adds up those above.
  static int64_t keep_bin(uint32_t* ranks, double* gives, int64_t count, int shift, uint32_t bins,
                          double gap, double* above) {
    std::array<double, 2048> sums{};
    std::array<uint32_t, 2048> held{};
    const uint32_t mask = bins - 1;
    for (int64_t i = 0; i < count; ++i) {
      sums[(ranks[i] >> shift) & mask] += gives[i];
      ++held[(ranks[i] >> shift) & mask];
    }
    uint32_t bin = 0;
    double sum = *above;
    for (uint32_t b = bins; b-- > 0;) {
      if (held[b] == 0) continue;
      bin = b;
      *above = sum;
      sum += sums[b];
      if (sum >= gap) break;
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i) {  // kept <= i
      const uint32_t rank = ranks[i];
      ranks[kept] = rank;
      gives[kept] = gives[i];
      kept += ((rank >> shift) & mask) == bin;
    }
    return kept;
  }
  DEITSEC_INLINE double amount(float size, double room) const {
    const double most = size > least ? room : (size == least ? share * room : 0.0);
    return size > 0.0f ? most : 0.0;
  }
  DEITSEC_INLINE static double gathered(double length, double amount) { return length + amount; }
  static double norm(double length) { return length; }
};

// Calls `use` with the type of the moves in the norm of this order: infinity, 2 or 1.
template <class Use>
void with_norm(const char* op, double p, const Use& use) {
  if (p == kEverything) return use(static_cast<MoveLinf*>(nullptr));
  if (p == 2.0) return use(static_cast<MoveL2*>(nullptr));
  STD_TORCH_CHECK(p == 1.0, op, ": p must be inf, 2 or 1");
  return use(static_cast<MoveL1*>(nullptr));
}

// (rows) values in fp32.
inline const float* check_values(const char* op, const Tensor& value, int64_t rows) {
  check_dtype(op, value, ScalarType::Float);
  STD_TORCH_CHECK(value.is_contiguous() && (rows == 0 || value.numel() == rows), op,
                  ": expected one contiguous value for each row, got ", value.numel());
  return input<float>(value);
}

}  // namespace deitsec
