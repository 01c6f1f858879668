// See deitsec/ops/saliency_pair.py for the meaning.
//
// A feature is the point (alpha, -beta), and a pair is worth the product of the sums of its points'
// coordinates, where both are positive. Rounding to nearest never turns an order around, so a pair
// is worth at most what the upper corners of two boxes are that hold its points, to the last bit.
// A good pair comes first; only points that could better it, or equal it, stay. Those are sorted by
// alpha, blocks of neighbours are the leaves of a tree, and pairs of nodes are split until a bound
// falls below the best pair. Points along a line alpha - beta = const, where all corners look good,
// are what a second bound is for: on a line whose slope is that of the product at its maximum.
//
// O(n) memory. O(n log n) time where few pairs of blocks survive: gradients, clouds, convex and
// linear fronts; the search has no better bound than n^2 pairs for any input there is.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/clones.h"
#include "cpu/rows.h"
#include "math/number.h"

namespace deitsec {
namespace {

constexpr int64_t kLeaf = 16;              // points that are compared with as many others at once
constexpr int64_t kScan = 2048;            // points between two looks at the best of a scan
constexpr int kDigit = 11;                 // bits that a pass of the sort looks at
constexpr double kRounding = 4e-16;        // of a few operations in double
constexpr double kSums = 1.0 + 0x1.2p-23;  // more than rounding two sums to fp32 gains
constexpr float kNever = -std::numeric_limits<float>::infinity();

// What a pair is worth; -1 where it does not count, as where a sum is NaN.
DEITSEC_INLINE double worth(float rise, float fall) {
  const double product = static_cast<double>(rise) * static_cast<double>(fall);
  return (rise > 0.0f) & (fall > 0.0f) ? product : -1.0;
}

struct Pair {
  double worth = -1.0;
  int64_t i = -1, j = -1;

  // Whether a pair of this worth, and of these places or later ones, is no better.
  bool beats(double bound, int64_t first, int64_t second) const {
    return bound < worth || (bound == worth && std::pair(first, second) >= std::pair(i, j));
  }

  void offer(double value, int64_t one, int64_t other) {
    const int64_t low = std::min(one, other), high = std::max(one, other);
    if (value >= 0.0 && !beats(value, low, high)) *this = {value, low, high};
  }
};

// The points of a row. One that never counts has both coordinates at -infinity.
struct Points {
  std::vector<float> rise, fall;
  float most_rise = kNever, most_fall = kNever;
};

template <class T>
DEITSEC_CLONES void load_points(float* rise, float* fall, const T* alpha, const T* beta,
                                const bool* mask, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float a = widen(alpha[i]), c = -widen(beta[i]);
    const bool counts = mask[i] & (a > kNever) & (c > kNever);
    rise[i] = counts ? a : kNever;
    fall[i] = counts ? c : kNever;
  }
}

// The most that a point of these is worth with the point (rise, fall).
DEITSEC_CLONES double best_worth(const float* rises, const float* falls, int64_t size, float rise,
                                 float fall) {
  double best = -1.0;
#pragma omp simd reduction(max : best)
  for (int64_t i = 0; i < size; ++i) {
    const double value = worth(rises[i] + rise, falls[i] + fall);
    best = value > best ? value : best;
  }
  return best;
}

DEITSEC_CLONES float greatest(const float* values, int64_t size) {
  float most = kNever;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < size; ++i) most = values[i] > most ? values[i] : most;
  return most;
}

// The point that is worth most with (rise, fall), that at `except` left out; -1 where none counts.
int64_t best_partner(const Points& points, float rise, float fall, int64_t except) {
  const auto size = static_cast<int64_t>(points.rise.size());
  double best = -1.0;
  int64_t at = -1;
  for (int64_t begin = 0; begin < size; begin += kScan) {
    const int64_t length = std::min(kScan, size - begin);
    const double here = best_worth(&points.rise[begin], &points.fall[begin], length, rise, fall);
    if (here <= best) continue;
    for (int64_t i = begin; i < begin + length; ++i) {
      const double value = worth(points.rise[i] + rise, points.fall[i] + fall);
      if (value > best && i != except) best = value, at = i;
    }
  }
  return at;
}

// A pair that is hard to better: the partner of a good point, the partner of that, and so on.
Pair good_pair(const Points& points) {
  Pair best;
  int64_t at = best_partner(points, points.most_rise, points.most_fall, -1);
  for (int turn = 0; turn < 8 && at >= 0; ++turn) {
    const int64_t other = best_partner(points, points.rise[at], points.fall[at], at);
    if (other < 0) break;
    const double before = best.worth;
    best.offer(worth(points.rise[at] + points.rise[other], points.fall[at] + points.fall[other]),
               at, other);
    if (best.worth <= before) break;
    at = other;
  }
  return best;
}

struct Point {
  float rise, fall;
  int32_t place;
};

// A number whose order is the reverse of that of the floats.
DEITSEC_INLINE uint32_t descending(float value) {
  const uint32_t bits = to_bits(value + 0.0f);  // -0 is 0
  return (bits >> 31) != 0 ? bits : ~bits & 0x7FFFFFFFu;
}

// One pass of a radix sort: moves the points by 11 bits of a coordinate, equal ones in order.
void sort_digit(std::vector<Point>& to, const std::vector<Point>& from, float Point::* coordinate,
                int shift) {
  constexpr uint32_t kDigits = 1u << kDigit;
  std::array<uint32_t, kDigits> starts{};
  const auto digit = [&](const Point& point) {
    return descending(point.*coordinate) >> shift & (kDigits - 1);
  };
  for (const Point& point : from) ++starts[digit(point)];
  uint32_t before = 0;
  for (uint32_t& start : starts) before += std::exchange(start, before);
  for (const Point& point : from) to[starts[digit(point)]++] = point;
}

// The points that may be part of a pair as good as this one, from the largest rise down.
std::vector<Point> contenders(const Points& points, const Pair& good) {
  std::vector<Point> left;
  const auto size = static_cast<int64_t>(points.rise.size());
  const double least = std::max(good.worth, 0.0);
  for (int64_t i = 0; i < size; ++i) {
    const float rise = points.rise[i], fall = points.fall[i];
    if (worth(rise + points.most_rise, fall + points.most_fall) >= least) {
      left.push_back({rise, fall, static_cast<int32_t>(i)});
    }
  }
  std::vector<Point> sorted(left.size());
  for (float Point::* coordinate : {&Point::fall, &Point::rise}) {
    for (int shift = 0; shift < 32; shift += kDigit) {
      sort_digit(sorted, left, coordinate, shift);
      std::swap(sorted, left);
    }
  }
  return left;
}

// What is known of the points below a node.
struct Node {
  float most_rise = kNever, least_rise = -kNever, most_fall = kNever;
  double along = -std::numeric_limits<double>::infinity();  // most of slope * rise + fall / slope
  int64_t first = std::numeric_limits<int64_t>::max();      // lowest place

  void take(const Node& other) {
    most_rise = std::max(most_rise, other.most_rise);
    least_rise = std::min(least_rise, other.least_rise);
    most_fall = std::max(most_fall, other.most_fall);
    along = std::max(along, other.along);
    first = std::min(first, other.first);
  }
};

// The most that a pair is worth of two leaves.
DEITSEC_CLONES double best_of_leaves(const float* rises, const float* falls, const float* others,
                                     const float* other_falls) {
  double best = -1.0;
  for (int p = 0; p < kLeaf; ++p) {
#pragma omp simd reduction(max : best)
    for (int q = 0; q < kLeaf; ++q) {
      const double value = worth(rises[p] + others[q], falls[p] + other_falls[q]);
      best = value > best ? value : best;
    }
  }
  return best;
}

class Search {
 public:
  Search(const std::vector<Point>& points, const Pair& good, double slope)
      : best_(good), slope_(slope) {
    const auto size = static_cast<int64_t>(points.size());
    while (leaves_ * kLeaf < size) leaves_ *= 2;
    rise_.resize(leaves_ * kLeaf, kNever);
    fall_.resize(leaves_ * kLeaf, kNever);
    place_.resize(leaves_ * kLeaf, 0);
    nodes_.resize(2 * leaves_);
    for (int64_t at = 0; at < size; ++at) {
      const Point& point = points[at];
      rise_[at] = point.rise, fall_[at] = point.fall, place_[at] = point.place;
      nodes_[leaves_ + at / kLeaf].take(
          {point.rise, point.rise, point.fall, along(point), point.place});
    }
    for (int64_t node = leaves_ - 1; node > 0; --node) {
      nodes_[node] = nodes_[2 * node];
      nodes_[node].take(nodes_[2 * node + 1]);
    }
  }

  Pair run() {
    visit({1, 1, bound(1, 1)});
    return best_;
  }

 private:
  struct Task {
    int64_t one, other;
    double bound;
  };

  double along(const Point& point) const {
    const double rise = slope_ * point.rise, fall = point.fall / slope_;
    return rise + fall + kRounding * (std::fabs(rise) + std::fabs(fall));
  }

  // The most that a pair is worth of points below two nodes.
  double bound(int64_t one, int64_t other) const {
    const Node &a = nodes_[one], &b = nodes_[other];
    const double corner = worth(a.most_rise + b.most_rise, a.most_fall + b.most_fall);
    const double along = a.along + b.along;
    // a sum that overflows is more than the line knows of
    if (corner < 0.0 || !std::isfinite(corner) || !std::isfinite(along)) return corner;
    const double low = static_cast<double>(a.least_rise) + b.least_rise;
    const double high = static_cast<double>(a.most_rise) + b.most_rise;
    const double rise = std::clamp(along / (2.0 * slope_), low, std::max(low, high));
    const double across = slope_ * rise;
    const double fall = along - across + kRounding * (std::fabs(along) + std::fabs(across));
    const double line = across * fall * kSums;
    return line < corner ? std::max(line, 0.0) : corner;  // a NaN bounds nothing
  }

  bool hopeless(const Task& task) const {
    const int64_t a = nodes_[task.one].first, b = nodes_[task.other].first;
    const int64_t later = task.one == task.other ? a + 1 : std::max(a, b);
    return task.bound < 0.0 || best_.beats(task.bound, std::min(a, b), later);
  }

  void visit(const Task& task) {
    if (hopeless(task)) return;
    if (task.one >= leaves_) return compare(task.one - leaves_, task.other - leaves_);
    std::array<Task, 4> tasks;
    int count = 0;
    for (const int64_t one : {2 * task.one, 2 * task.one + 1}) {
      for (const int64_t other : {2 * task.other, 2 * task.other + 1}) {
        if (task.one == task.other && one > other) continue;
        tasks[count++] = {one, other, bound(one, other)};
      }
    }
    // insertion keeps those of equal bounds in order
    for (int k = 1; k < count; ++k) {
      for (int at = k; at > 0 && tasks[at].bound > tasks[at - 1].bound; --at) {
        std::swap(tasks[at], tasks[at - 1]);
      }
    }
    for (int k = 0; k < count; ++k) visit(tasks[k]);
  }

  void compare(int64_t one, int64_t other) {
    const int64_t from = one * kLeaf, to = other * kLeaf;
    const double value = best_of_leaves(&rise_[from], &fall_[from], &rise_[to], &fall_[to]);
    if (value < std::max(best_.worth, 0.0)) return;
    for (int64_t p = from; p < from + kLeaf; ++p) {
      for (int64_t q = one == other ? p + 1 : to; q < to + kLeaf; ++q) {
        best_.offer(worth(rise_[p] + rise_[q], fall_[p] + fall_[q]), place_[p], place_[q]);
      }
    }
  }

  Pair best_;
  double slope_;
  int64_t leaves_ = 1;
  std::vector<float> rise_, fall_;
  std::vector<int32_t> place_;
  std::vector<Node> nodes_;
};

Pair best_pair(Points& points) {
  const auto size = static_cast<int64_t>(points.rise.size());
  points.most_rise = greatest(points.rise.data(), size);
  points.most_fall = greatest(points.fall.data(), size);
  const Pair good = good_pair(points);
  double slope = 1.0;
  if (good.i >= 0) {
    const double rise = static_cast<double>(points.rise[good.i]) + points.rise[good.j];
    const double fall = static_cast<double>(points.fall[good.i]) + points.fall[good.j];
    slope = std::sqrt(fall / rise);
  }
  if (!std::isfinite(slope) || slope <= 0.0) slope = 1.0;
  return Search(contenders(points, good), good, slope).run();
}

std::tuple<Tensor, Tensor, Tensor> saliency_pair(const Tensor& alpha, const Tensor& beta,
                                                 const Tensor& mask) {
  const char* op = "saliency_pair";
  check_like(op, alpha, alpha);
  check_like(op, beta, alpha);
  check_like(op, mask, alpha);
  check_dtype(op, beta, alpha.scalar_type());
  check_dtype(op, mask, ScalarType::Bool);
  STD_TORCH_CHECK(alpha.dim() == 2 && alpha.size(1) <= 1 << 30, op, ": expected (rows, features)");
  const Rows rows = rows_of(op, alpha);
  const int64_t count = alpha.size(0);
  Tensor one = torch::stable::new_empty(alpha, {count}, ScalarType::Long);
  Tensor other = torch::stable::new_empty(alpha, {count}, ScalarType::Long);
  Tensor found = torch::stable::new_empty(mask, {count});
  with_float_type(op, alpha.scalar_type(), [&](auto element) {
    using T = decltype(element);
    for_rows(rows, [&](int64_t first, int64_t last) {
      Points points;
      points.rise.resize(rows.elements);
      points.fall.resize(rows.elements);
      for (int64_t row = first; row < last; ++row) {
        const int64_t begin = row * rows.elements;
        load_points(points.rise.data(), points.fall.data(), input<T>(alpha) + begin,
                    input<T>(beta) + begin, input<bool>(mask) + begin, rows.elements);
        const Pair best = best_pair(points);
        output<int64_t>(one)[row] = best.i;
        output<int64_t>(other)[row] = best.j;
        output<bool>(found)[row] = best.i >= 0;
      }
    });
  });
  return {one, other, found};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cpp, CPU, m) {
  m.impl("saliency_pair", TORCH_BOX(&saliency_pair));
}

}  // namespace deitsec
