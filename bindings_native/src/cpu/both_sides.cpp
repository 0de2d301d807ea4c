// Rows are rounded in groups, a span of columns after the other. What a group's rounding adds to the outputs is taken
// back, as far as they vary together, by the rows that are still to come: the same step as between columns
// (feedback.hpp), transposed.
//
// A span needs the same columns of all earlier groups and the earlier columns of its own. So threads work on one group
// each, and a group follows the one before it. From a weight products are subtracted one by one, first those of earlier
// rows, then those of earlier columns: neither the spans nor the threads change a bit.
#include "both_sides.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/instruction_sets.hpp"
#include "cpu/scratch.hpp"
#include "cpu/threads.hpp"

namespace raq {
namespace {

constexpr std::int64_t span = feedback::span;
static_assert(groups::rows == feedback_rows);

class BothSides {
 public:
  BothSides(const QuantType& type, const Rows& rows, const float* factor, const float* row_factor,
            const Options& options, std::uint8_t* blocks)
      : type_(type),
        rows_(rows),
        row_factor_(row_factor),
        kernels_(cpu_kernels(type, options.instruction_set)),
        steps_(group_kernels(options.instruction_set)),
        blocks_(blocks),
        spans_((rows.length + span - 1) / span),
        groups_((rows.count + feedback_rows - 1) / feedback_rows),
        threads_(threads_of(options)),
        importance_(importance_of(factor, rows.length)),
        effort_(effort_for({nullptr, importance_.data(), 0, rows.length}, options.effort)),
        corners_(spans_ * feedback::corner),
        columns_(offset_of(spans_)),
        fed_(rows.count * rows.length),
        finished_(groups_) {
    for_each_chunk(spans_, threads_, [&](std::int64_t s) { pack(factor, s); });
  }

  void run() {
    // Every group is finished, whatever happens: the one after it waits for that. One that starts after a failure is
    // a later one than that which failed.
    std::vector<std::exception_ptr> failures(groups_);
    std::atomic<bool> failed{false};
    for_each_chunk(groups_, threads_, [&](std::int64_t group) {
      try {
        if (!failed) Group(*this, group).round();
      } catch (...) {
        failures[group] = std::current_exception();
        failed = true;
      }
      finish(group, spans_);
    });
    for (const std::exception_ptr& failure : failures)
      if (failure) std::rethrow_exception(failure);
  }

 private:
  // One group of rows.
  class Group {
   public:
    Group(BothSides& all, std::int64_t number)
        : all_(all),
          number_(number),
          first_(number * feedback_rows),
          count_(std::min(feedback_rows, all.rows_.count - first_)),
          of_rows_(first_ * feedback_rows),
          weights_(span * feedback_rows),
          before_(span * feedback_rows),
          restored_(span * feedback_rows),
          errors_(all.rows_.length * feedback_rows) {
      for (std::int64_t k = 0; k < first_; ++k) {
        float* const found = std::copy_n(all.row_factor_ + k * all.rows_.count + first_, count_,
                                         of_rows_.data() + k * feedback_rows);
        std::fill(found, of_rows_.data() + (k + 1) * feedback_rows, 0.0f);
      }
    }

    void round() {
      std::int64_t bad = all_finite;
      for (std::int64_t s = 0; s < all_.spans_; ++s) {
        feed_rows(s);
        const std::int64_t found = first_bad(s);
        if (bad == all_finite || (found != all_finite && found < bad)) bad = found;
        if (bad == all_finite) round_span(s);  // else nothing of this group or a later one is used
        all_.finish(number_, s + 1);
      }
      if (bad != all_finite) throw NonFiniteWeight(first_ + bad / all_.rows_.length, bad % all_.rows_.length);
    }

   private:
    BothSides& all_;
    std::int64_t number_, first_, count_;
    Scratch of_rows_;                      // what earlier rows' errors are multiplied with, 16 for each row
    Scratch weights_, before_, restored_;  // of a span, [column][row]: before_ has no errors of columns
    Scratch errors_;                       // of columns, [column][row]

    // The weights of a span, less the errors of earlier rows.
    void feed_rows(std::int64_t s) {
      const std::int64_t columns = all_.columns_of(s), rows = all_.rows_.count;
      all_.steps_.load(all_.rows_.weights + first_ * all_.rows_.length + s * span, count_, all_.rows_.length,
                       columns, weights_.data());
      // The group just before this one may still be at work, when those before it are done with the span.
      const std::int64_t settled = number_ < 2 ? 0 : (number_ - 1) * feedback_rows;
      for (const auto& [from, to] : {std::pair{std::int64_t{0}, settled}, std::pair{settled, first_}}) {
        if (from == to) continue;
        all_.wait_for(to / feedback_rows - 1, s + 1);
        all_.steps_.subtract(weights_.data(), columns, of_rows_.data() + from * feedback_rows, to - from,
                             all_.fed_of(s) + from * groups::strip, rows);
      }
    }

    // Row by row, as all weights of the group are looked at.
    std::int64_t first_bad(std::int64_t s) const {
      const std::int64_t columns = all_.columns_of(s);
      const float* weights = weights_.data();
      if (all_.steps_.all_finite(weights, columns * feedback_rows)) return all_finite;
      for (std::int64_t i = 0; i < count_; ++i)
        for (std::int64_t k = 0; k < columns; ++k)
          if (!std::isfinite(weights[k * feedback_rows + i])) return i * all_.rows_.length + s * span + k;
      return all_finite;
    }

    void round_span(std::int64_t s) {
      const std::int64_t columns = all_.columns_of(s), length = all_.rows_.length, rows = all_.rows_.count;
      std::copy_n(weights_.data(), columns * feedback_rows, before_.data());
      for (std::int64_t earlier = 0; earlier < s; ++earlier)
        all_.steps_.subtract(weights_.data(), columns, errors_.data() + earlier * span * feedback_rows, span,
                             all_.columns_.data() + all_.offset_of(s) + earlier * span * columns, span);
      const std::int64_t row_bytes = all_.type_.row_bytes(length);
      const bool last = first_ + count_ == rows;
      all_.kernels_.round_span(
          {weights_.data(), errors_.data() + s * span * feedback_rows, last ? nullptr : restored_.data(),
           all_.importance_.data() + s * span, all_.corners_.data() + s * feedback::corner, count_,
           static_cast<int>(columns), all_.effort_,
           all_.blocks_ + first_ * row_bytes + all_.type_.row_bytes(s * span), row_bytes});
      if (!last)
        all_.steps_.substitute(before_.data(), restored_.data(), columns,
                               all_.row_factor_ + first_ * rows + first_, rows,
                               all_.fed_of(s) + first_ * groups::strip, rows);
    }
  };

  const QuantType& type_;
  const Rows& rows_;
  const float* row_factor_;
  const Kernels& kernels_;
  const GroupKernels& steps_;
  std::uint8_t* blocks_;
  std::int64_t spans_, groups_;
  int threads_;
  std::vector<float> importance_;
  Effort effort_;
  Scratch corners_;  // the columns' factor within each span
  Scratch columns_;  // and from earlier spans to each: strips of a span's rows
  // What rows feed forward, X of U_gg^T X = errors of a group: for each span strips of all rows.
  Scratch fed_;
  std::vector<std::atomic<std::int64_t>> finished_;  // spans of each group

  std::int64_t columns_of(std::int64_t s) const { return std::min(span, rows_.length - s * span); }
  float* fed_of(std::int64_t s) { return fed_.data() + s * span * rows_.count; }
  // Where the strips to span `s` begin: all spans but the last are whole.
  std::int64_t offset_of(std::int64_t s) const {
    const std::int64_t whole = std::min(s, spans_ - 1);
    return whole * (whole - 1) / 2 * span * span + (s < spans_ ? 0 : whole * span * columns_of(whole));
  }

  void pack(const float* factor, std::int64_t s) {
    const std::int64_t columns = columns_of(s), length = rows_.length;
    steps_.pack_corner(factor, length, s * span, static_cast<int>(columns),
                       corners_.data() + s * feedback::corner);
    for (std::int64_t earlier = 0; earlier < s; ++earlier)
      steps_.pack(factor + earlier * span * length + s * span, length, span, columns,
                  columns_.data() + offset_of(s) + earlier * span * columns);
  }

  void finish(std::int64_t group, std::int64_t spans) {
    finished_[group].store(spans);
    finished_[group].notify_all();
  }
  void wait_for(std::int64_t group, std::int64_t spans) const {
    for (std::int64_t now; (now = finished_[group].load()) < spans;) finished_[group].wait(now);
  }
};

}  // namespace

void quantize_on_both_sides(const QuantType& type, const Rows& rows, const float* factor,
                            const float* row_factor, const Options& options, std::uint8_t* blocks) {
  type.row_bytes(rows.length);
  if (cpu_kernels(type, options.instruction_set).round_span == nullptr) throw NoFeedback(type);
  importance_of(row_factor, rows.count);  // refuses what is no factor
  if (rows.count == 0 || rows.length == 0) return;
  BothSides(type, rows, factor, row_factor, options, blocks).run();
}

}  // namespace raq
