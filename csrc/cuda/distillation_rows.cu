// See deitsec/ops/distillation_loss.py for the meaning.
#include <torch/csrc/stable/library.h>

#include <array>
#include <cfloat>
#include <cmath>
#include <optional>

#include "cuda/row_group.h"

namespace deitsec {
namespace {

constexpr int kBlock = 256;
constexpr int kBlocksPerProcessor = 8;

// Threads of a block whose rows get `kThreads` each.
template <int kThreads>
constexpr int kBlockThreads = kThreads < kBlock ? kBlock : kThreads;

// Blocks that a processor must hold: 768 threads leave 85 registers to each, enough not to spill.
template <int kThreads>
constexpr int kMinBlocks = 768 / kBlockThreads<kThreads>;

template <class T>
struct Rows {
  const T* student;
  const T* teacher;
  const int64_t* labels;  // null: no cross-entropy with labels
  int64_t count;
  int64_t classes;
  double temperature;
  double soft_weight;  // alpha
  double hard_weight;  // 1 - alpha, or 0 without labels
  double scale;
  float* loss;
  T* gradient;  // null: not wanted

  // Whether a 128-bit access that fits one of the tensors fits the others at the same index.
  __device__ bool alike() const {
    const auto offset = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % kPackBytes; };
    return offset(student) == offset(teacher) &&
           (gradient == nullptr || offset(student) == offset(gradient));
  }

  // The label of a row; outside of the classes it becomes -1, and `valid` is false.
  __device__ int64_t label(int64_t row, bool& valid) const {
    if (labels == nullptr) return -1;
    const int64_t value = labels[row];
    valid = value >= 0 && value < classes;
    return valid ? value : -1;
  }
};

// Below every logit; unlike -inf it can be subtracted from itself.
constexpr float kNone = -FLT_MAX;

// Running sums of one row, all relative to the largest logit so far.
struct SoftSums {
  float student_max = kNone;
  float student = 0.0f;  // sum of exp(s / T)
  float others = 0.0f;   // sum of exp(s) over every class but the label
  float teacher_max = kNone;
  float teacher = 0.0f;  // sum of exp(t / T)
  float cross = 0.0f;    // sum of exp(t / T) * (t - s) / T
};

struct SoftSumsMerge {
  float inverse;

  __device__ SoftSums operator()(const SoftSums& a, const SoftSums& b) const {
    SoftSums sum;
    sum.student_max = fmaxf(a.student_max, b.student_max);
    sum.teacher_max = fmaxf(a.teacher_max, b.teacher_max);
    // the part with the larger logit keeps its scale: three exponentials, not six
    const float student_gap = a.student_max - b.student_max;
    const float teacher_gap = a.teacher_max - b.teacher_max;
    const float student = expf(-fabsf(student_gap) * inverse);
    const float plain = expf(-fabsf(student_gap));
    const float teacher = expf(-fabsf(teacher_gap) * inverse);
    const auto add = [](float gap, float scale, float x, float y) {
      return gap >= 0.0f ? x + y * scale : x * scale + y;
    };
    sum.student = add(student_gap, student, a.student, b.student);
    sum.others = add(student_gap, plain, a.others, b.others);
    sum.teacher = add(teacher_gap, teacher, a.teacher, b.teacher);
    sum.cross = add(teacher_gap, teacher, moved(a, sum), moved(b, sum));
    return sum;
  }

  // `cross` of one part, relative to the largest logits of the whole.
  __device__ float moved(const SoftSums& part, const SoftSums& whole) const {
    const float teacher = whole.teacher_max - part.teacher_max;
    const float student = whole.student_max - part.student_max;
    return part.cross - part.teacher * ((teacher - student) * inverse);
  }
};

template <class T, int kThreads>
__device__ SoftSums soft_sums(const Rows<T>& rows, int64_t row, int64_t label, float inverse,
                              SoftSums* shared) {
  using Group = RowGroup<kThreads>;
  const T* student = rows.student + row * rows.classes;
  const T* teacher = rows.teacher + row * rows.classes;
  const bool with_label = rows.labels != nullptr;
  const SoftSumsMerge merge{inverse};
  SoftSums mine;
  Group::for_row(student, rows.alike(), rows.classes, [&]<int kCount>(int64_t begin) {
    float s[kCount], t[kCount];
    load(student + begin, s);
    load(teacher + begin, t);
    SoftSums run;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      run.student_max = fmaxf(run.student_max, s[i]);
      run.teacher_max = fmaxf(run.teacher_max, t[i]);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float below = s[i] - run.student_max;
      const float teacher_below = t[i] - run.teacher_max;
      const float p = expf(teacher_below * inverse);
      run.student += expf(below * inverse);
      run.teacher += p;
      run.cross += p * ((teacher_below - below) * inverse);
      if (with_label && begin + i != label) run.others += expf(below);
    }
    mine = merge(mine, run);
  });
  return Group::reduce(mine, shared, merge);
}

// What the exponentials of a row are multiplied by in its gradient.
struct SoftFactors {
  float student;
  float teacher;
  float plain;
};

template <class T, int kThreads>
__device__ void soft_gradient(const Rows<T>& rows, int64_t row, int64_t label, float inverse,
                              const SoftSums& sums, const SoftFactors& factors) {
  const T* student = rows.student + row * rows.classes;
  const T* teacher = rows.teacher + row * rows.classes;
  T* gradient = rows.gradient + row * rows.classes;
  const bool with_label = rows.labels != nullptr;
  const auto write = [&]<int kCount>(int64_t begin) {
    float s[kCount], t[kCount], g[kCount];
    load(student + begin, s);
    load(teacher + begin, t);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float below = s[i] - sums.student_max;
      const float p = expf((t[i] - sums.teacher_max) * inverse);
      g[i] = factors.student * expf(below * inverse) - factors.teacher * p;
      if (with_label) g[i] += factors.plain * (begin + i == label ? -sums.others : expf(below));
    }
    store(gradient + begin, g);
  };
  RowGroup<kThreads>::for_row(student, rows.alike(), rows.classes, write);
}

// alpha * T^2 * KL(teacher || student) + (1 - alpha) * CE(student, label)
template <class T, int kThreads>
__global__ void __launch_bounds__(kBlockThreads<kThreads>, kMinBlocks<kThreads>)
    soft_rows_kernel(const Rows<T> rows) {
  __shared__ SoftSums shared[RowGroup<kThreads>::kWarps];
  const int64_t groups = static_cast<int64_t>(gridDim.x) * (blockDim.x / kThreads);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kThreads;
  const bool with_label = rows.labels != nullptr;
  const auto inverse = static_cast<float>(1.0 / rows.temperature);
  for (int64_t row = first; row < rows.count; row += groups) {
    bool valid = true;
    const int64_t label = rows.label(row, valid);
    const SoftSums sums = soft_sums<T, kThreads>(rows, row, label, inverse, shared);
    const float at_label = valid && with_label
                               ? widen(rows.student[row * rows.classes + label]) - sums.student_max
                               : 0.0f;
    const double plain_total = static_cast<double>(sums.others) + expf(at_label);
    if (threadIdx.x % kThreads == 0) {
      const double teacher_total = sums.teacher;
      const double divergence = sums.cross / teacher_total + log(sums.student / teacher_total);
      double loss = rows.soft_weight * rows.temperature * rows.temperature * divergence;
      if (with_label) loss += rows.hard_weight * (log(plain_total) - at_label);
      rows.loss[row] = valid ? static_cast<float>(rows.scale * loss) : NAN;
    }
    if (rows.gradient == nullptr) continue;
    const double soft = rows.scale * rows.soft_weight * rows.temperature;
    const double plain = valid ? rows.scale * rows.hard_weight / plain_total : NAN;
    const SoftFactors factors{static_cast<float>(soft / sums.student),
                              static_cast<float>(soft / sums.teacher), static_cast<float>(plain)};
    soft_gradient<T, kThreads>(rows, row, label, inverse, sums, factors);
  }
}

struct Choice {
  float student_max = kNone;
  float value = -INFINITY;
  int32_t index = INT32_MAX;  // of the teacher's largest logit; a NaN is larger than all
};

struct ChoiceMerge {
  __device__ Choice operator()(const Choice& a, const Choice& b) const {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    const bool equal = a_nan && b_nan ? true : a.value == b.value;
    const bool a_wins = equal ? a.index < b.index : (a_nan || (!b_nan && a.value > b.value));
    return {fmaxf(a.student_max, b.student_max), a_wins ? a.value : b.value,
            a_wins ? a.index : b.index};
  }
};

struct HardSums {
  float beside_choice = 0.0f;  // sum of exp(s) over every class but the teacher's choice
  float beside_label = 0.0f;   // and over every class but the label
};

struct HardSumsMerge {
  __device__ HardSums operator()(const HardSums& a, const HardSums& b) const {
    return {a.beside_choice + b.beside_choice, a.beside_label + b.beside_label};
  }
};

template <class T, int kThreads>
__device__ Choice teacher_choice(const Rows<T>& rows, int64_t row, Choice* shared) {
  using Group = RowGroup<kThreads>;
  const T* student = rows.student + row * rows.classes;
  const T* teacher = rows.teacher + row * rows.classes;
  const ChoiceMerge choose;
  Choice mine;
  Group::for_row(student, rows.alike(), rows.classes, [&]<int kCount>(int64_t begin) {
    float s[kCount], t[kCount];
    load(student + begin, s);
    load(teacher + begin, t);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      mine = choose(mine, {s[i], t[i], static_cast<int32_t>(begin + i)});
    }
  });
  return Group::reduce(mine, shared, choose);
}

template <class T, int kThreads>
__device__ HardSums hard_sums(const Rows<T>& rows, int64_t row, const Choice& choice, int64_t label,
                              HardSums* shared) {
  using Group = RowGroup<kThreads>;
  const T* student = rows.student + row * rows.classes;
  HardSums mine;
  Group::for_row(student, rows.alike(), rows.classes, [&]<int kCount>(int64_t begin) {
    float s[kCount];
    load(student + begin, s);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float e = expf(s[i] - choice.student_max);
      if (begin + i != choice.index) mine.beside_choice += e;
      if (begin + i != label) mine.beside_label += e;
    }
  });
  return Group::reduce(mine, shared, HardSumsMerge{});
}

// alpha * CE(student, argmax teacher) + (1 - alpha) * CE(student, label)
template <class T, int kThreads>
__global__ void __launch_bounds__(kBlockThreads<kThreads>, kMinBlocks<kThreads>)
    hard_rows_kernel(const Rows<T> rows) {
  using Group = RowGroup<kThreads>;
  __shared__ Choice shared_choice[Group::kWarps];
  __shared__ HardSums shared_sums[Group::kWarps];
  const int64_t groups = static_cast<int64_t>(gridDim.x) * (blockDim.x / kThreads);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kThreads;
  for (int64_t row = first; row < rows.count; row += groups) {
    const T* student = rows.student + row * rows.classes;
    const Choice choice = teacher_choice<T, kThreads>(rows, row, shared_choice);
    bool valid = true;
    const int64_t wanted = rows.label(row, valid);
    const int64_t label = wanted < 0 ? choice.index : wanted;
    const HardSums sums = hard_sums<T, kThreads>(rows, row, choice, label, shared_sums);
    const float at_choice = widen(student[choice.index]) - choice.student_max;
    const float at_label = widen(student[label]) - choice.student_max;
    const double total = static_cast<double>(sums.beside_choice) + expf(at_choice);
    if (threadIdx.x % kThreads == 0) {
      const double loss =
          rows.soft_weight * (log(total) - at_choice) + rows.hard_weight * (log(total) - at_label);
      rows.loss[row] = valid ? static_cast<float>(rows.scale * loss) : NAN;
    }
    if (rows.gradient == nullptr) continue;
    T* gradient = rows.gradient + row * rows.classes;
    const auto of_choice = static_cast<float>(rows.scale * rows.soft_weight / total);
    const auto of_label = valid ? static_cast<float>(rows.scale * rows.hard_weight / total) : NAN;
    Group::for_row(student, rows.alike(), rows.classes, [&]<int kCount>(int64_t begin) {
      float s[kCount], g[kCount];
      load(student + begin, s);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const float e = expf(s[i] - choice.student_max);
        g[i] = of_choice * (begin + i == choice.index ? -sums.beside_choice : e) +
               of_label * (begin + i == label ? -sums.beside_label : e);
      }
      store(gradient + begin, g);
    });
  }
}

template <class T, int kThreads>
void launch(const Rows<T>& rows, bool hard, cudaStream_t stream) {
  constexpr int kRowsPerBlock = kBlockThreads<kThreads> / kThreads;
  const unsigned int blocks =
      grid_size((rows.count + kRowsPerBlock - 1) / kRowsPerBlock, kBlocksPerProcessor);
  auto* kernel = hard ? hard_rows_kernel<T, kThreads> : soft_rows_kernel<T, kThreads>;
  kernel<<<blocks, kBlockThreads<kThreads>, 0, stream>>>(rows);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class T>
void launch_for_classes(const Rows<T>& rows, bool hard, cudaStream_t stream) {
  if (rows.classes <= 64) return launch<T, 8>(rows, hard, stream);
  if (rows.classes <= 512) return launch<T, 32>(rows, hard, stream);
  if (rows.classes <= 8192) return launch<T, 256>(rows, hard, stream);
  return launch<T, 512>(rows, hard, stream);
}

std::tuple<Tensor, Tensor> distillation_rows(const Tensor& student, const Tensor& teacher,
                                             const std::optional<Tensor>& labels,
                                             double temperature, double alpha, bool hard,
                                             double scale, bool with_grad) {
  const char* op = "distillation_loss";
  check_logits(op, student);
  check_like(op, teacher, student);
  check_dtype(op, teacher, student.scalar_type());
  const int64_t count = student.size(0), classes = student.size(1);
  if (labels) {
    check_dtype(op, *labels, ScalarType::Long);
    STD_TORCH_CHECK(labels->is_contiguous() && labels->numel() == count, op, ": expected ", count,
                    " contiguous labels, got ", labels->numel());
  }
  const torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
  const std::array<int64_t, 1> loss_shape{count};
  const std::array<int64_t, 2> gradient_shape{with_grad ? count : 0, classes};
  Tensor loss = torch::stable::new_empty(student, loss_shape, ScalarType::Float);
  Tensor gradient = torch::stable::new_empty(student, gradient_shape);
  if (student.numel() == 0) return {loss, gradient};
  with_float_type(op, student.scalar_type(), [&](auto element) {
    using T = decltype(element);
    const Rows<T> rows{input<T>(student),
                       input<T>(teacher),
                       labels ? input<int64_t>(*labels) : nullptr,
                       count,
                       classes,
                       temperature,
                       alpha,
                       labels ? 1.0 - alpha : 0.0,
                       scale,
                       output<float>(loss),
                       with_grad ? output<T>(gradient) : nullptr};
    launch_for_classes(rows, hard, current_stream(student));
  });
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(deitsec_cuda, CUDA, m) {
  m.impl("distillation_rows", TORCH_BOX(&distillation_rows));
}

}  // namespace deitsec
