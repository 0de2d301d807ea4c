// The CUDA half of the native code, built for this processor, as plain functions for ctypes.
#include <cstdio>
#include <sstream>

#include "cuda/cuda.hpp"
#include "runtime.hpp"

namespace {

enum Result { done, value_error, runtime_error, memory_error };

// Does the work; an exception becomes its kind, and its text the message.
template <class Work>
int result_of(char* message, std::size_t size, Work work) {
  const auto report = [&](const std::exception& error, Result result) {
    std::snprintf(message, size, "%s", error.what());
    return result;
  };
  try {
    work();
    return done;
  } catch (const std::bad_alloc& error) {
    return report(error, memory_error);
  } catch (const std::invalid_argument& error) {
    return report(error, value_error);
  } catch (const std::exception& error) {
    return report(error, runtime_error);
  }
}

int number_of(const char* device) { return raq::find_device(device).number; }

}  // namespace

extern "C" {

int raq_quantize(const char* type, const float* weights, const float* importance, std::int64_t rows,
                 std::int64_t length, int effort, const char* device, std::uint8_t* blocks, char* message,
                 std::size_t size) {
  return result_of(message, size, [&] {
    raq::cuda::quantize(raq::find_quant_type(type), {weights, importance, rows, length},
                        static_cast<raq::Effort>(effort), number_of(device), blocks);
  });
}

int raq_quantize_with_feedback(const char* type, const float* weights, const float* factor,
                               const float* row_factor, std::int64_t rows, std::int64_t length, int effort,
                               const char* device, std::uint8_t* blocks, char* message, std::size_t size) {
  return result_of(message, size, [&] {
    raq::cuda::quantize_with_feedback(raq::find_quant_type(type), {weights, nullptr, rows, length}, factor,
                                      row_factor, static_cast<raq::Effort>(effort), number_of(device),
                                      blocks);
  });
}

int raq_dequantize(const char* type, const std::uint8_t* blocks, std::int64_t rows, std::int64_t length,
                   const char* device, float* weights, char* message, std::size_t size) {
  return result_of(message, size, [&] {
    raq::cuda::dequantize(raq::find_quant_type(type), blocks, rows, length, number_of(device), weights);
  });
}

// Types with spaces between; two sums of each.
int raq_measure(const char* types, const float* weights, const float* importance, std::int64_t rows,
                std::int64_t length, int effort, const char* device, raq::ErrorSums* sums, char* message,
                std::size_t size) {
  return result_of(message, size, [&] {
    std::vector<raq::QuantType> wanted;
    std::istringstream names(types);
    for (std::string name; names >> name;) wanted.push_back(raq::find_quant_type(name));
    for (const raq::ErrorSums& found :
         raq::cuda::measure(wanted, {weights, importance, rows, length}, static_cast<raq::Effort>(effort),
                            number_of(device)))
      *sums++ = found;
  });
}

// A line for each device.
void raq_devices(char* text, std::size_t size) {
  std::ostringstream lines;
  for (const raq::cuda::DeviceInfo& device : raq::cuda::devices())
    lines << device.number << " " << device.name << " " << device.major << " " << device.minor << " "
          << device.memory_bytes << " " << device.usable << "\n";
  std::snprintf(text, size, "%s", lines.str().c_str());
}

void raq_release() { raq::cuda::release(); }

void emulated_reset(int count, const int* capabilities, const std::size_t* memory, std::uint64_t seed,
                    double eagerness, int together) {
  std::vector<emulated::DeviceModel> devices;
  for (int i = 0; i < count; ++i) devices.push_back({capabilities[i] / 10, capabilities[i] % 10, memory[i]});
  emulated::reset(std::move(devices), seed, eagerness, together != 0);
}

void emulated_fail(const char* call, long n, int code) {
  emulated::fail(call, n, static_cast<cudaError_t>(code));
}

// calls, busiest, freed in use, allocations, streams, queued, then launches of four devices.
void emulated_counts(long* out) {
  emulated::Counts counts = emulated::counts();
  for (const long count :
       {counts.calls, counts.busiest, counts.freed_in_use, counts.allocations, counts.streams, counts.queued,
        counts.launches[0], counts.launches[1], counts.launches[2], counts.launches[3]})
    *out++ = count;
}
}
