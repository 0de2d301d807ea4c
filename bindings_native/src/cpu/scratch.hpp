#pragma once

#include <cstdint>
#include <new>

namespace raq {

// Memory in floats, aligned as the kernels need it.
class Scratch {
 public:
  explicit Scratch(std::int64_t count)
      : data_(static_cast<float*>(::operator new(count * sizeof(float), alignment))) {}
  ~Scratch() { ::operator delete(data_, alignment); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return data_; }

 private:
  static constexpr std::align_val_t alignment{64};
  float* data_;
};

}  // namespace raq
