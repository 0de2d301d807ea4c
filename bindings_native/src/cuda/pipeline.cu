#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "cuda/lanes.hpp"
#include "cuda/pipeline.hpp"

namespace raq::cuda {
namespace {

constexpr int most_sharing = 4;  // calls that share a device; others wait

// The lanes of a device, kept from call to call: pinning memory takes longer than quantizing what fits into
// it. Only one call uses them at a time.
struct DeviceLanes {
  std::mutex busy;
  std::array<std::unique_ptr<Lane>, most_lanes> lanes;
  DeviceMemory constants;

  // After a failure of CUDA, which may leave lanes in any state. First each must be idle: memory in use may not
  // be freed.
  void give_up() {
    for (std::unique_ptr<Lane>& lane : lanes) {
      if (lane) cudaStreamSynchronize(lane->stream);
      lane.reset();
    }
    constants.release();
    cudaGetLastError();
  }
};

struct AllLanes {
  std::mutex guard;
  std::map<std::pair<int, int>, DeviceLanes> devices;  // by device and place
};

AllLanes& all_lanes() {
  static AllLanes& all = *new AllLanes;  // never destroyed: at exit the driver may be gone already
  return all;
}

// Place 0 of a device is for calls that fill it, the others are for calls that share it.
DeviceLanes& lanes_of(int device, int place) {
  AllLanes& all = all_lanes();
  const std::lock_guard lock(all.guard);
  return all.devices[{device, place}];
}

// The lanes for a call, and the lock that keeps other calls from them.
std::pair<DeviceLanes&, std::unique_lock<std::mutex>> taken(int device, bool shares_device) {
  if (!shares_device) {
    DeviceLanes& lanes = lanes_of(device, 0);
    return {lanes, std::unique_lock(lanes.busy)};
  }
  for (int place = 1; place <= most_sharing; ++place) {
    DeviceLanes& lanes = lanes_of(device, place);
    if (std::unique_lock lock(lanes.busy, std::try_to_lock); lock) return {lanes, std::move(lock)};
  }
  static std::atomic<unsigned> next{0};
  DeviceLanes& lanes = lanes_of(device, 1 + next++ % most_sharing);
  return {lanes, std::unique_lock(lanes.busy)};
}

// Hands out parts in order, and remembers the failure of the first part that failed.
class Parts {
 public:
  explicit Parts(const Chunks& chunks) : chunks_(chunks), end_(chunks.count) {}

  std::optional<Part> take(std::int64_t chunk_count) {
    const std::lock_guard lock(guard_);
    if (next_ >= end_) return std::nullopt;
    const std::int64_t first = chunks_.first(next_);
    next_ = std::min(next_ + chunk_count, chunks_.count);
    return Part{first, std::min(chunks_.first(next_), chunks_.rows) - first};
  }

  // Keeps the current exception if its part is the first that failed. Later parts are then
  // neither handed out nor collected.
  void failed(std::int64_t first_row) {
    const std::lock_guard lock(guard_);
    const std::int64_t chunk = first_row / chunks_.rows_per_chunk;
    if (failure_ && chunk >= end_) return;
    end_ = chunk;
    failure_ = std::current_exception();
  }

  bool matters(const Part& part) {
    const std::lock_guard lock(guard_);
    return part.first / chunks_.rows_per_chunk < end_;
  }

  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  const Chunks& chunks_;
  std::mutex guard_;
  std::int64_t next_ = 0, end_;
  std::exception_ptr failure_;
};

// Makes room for the constants, and in every lane for parts of at most `chunk_count` chunks, or of a half, a
// quarter … of that if the device is short of memory. Returns the number of chunks there is room for.
std::int64_t prepare(DeviceLanes& device, const Work& work, std::int64_t chunk_count) {
  std::size_t constants = 0;
  for (const Constant& constant : work.constants) constants += aligned(constant.size);
  for (;; chunk_count /= 2) try {
      const std::int64_t rows = std::min(chunk_count * work.chunks.rows_per_chunk, work.chunks.rows);
      if (constants > 0) device.constants.reserve(constants, "cudaMalloc");
      for (std::int64_t i = 0; i < work.lanes; ++i) {
        std::unique_ptr<Lane>& lane = device.lanes[i];
        if (!lane) lane = std::make_unique<Lane>();
        lane->reserve(work.bytes_in(rows), work.bytes_out(rows), work.bytes_scratch(rows));
      }
      return chunk_count;
    } catch (const OutOfMemory&) {
      device.give_up();
      if (chunk_count <= 1) throw;
    }
}

// Copies the constants through the pinned memory of the first lane, as much at a time as that holds.
void send_constants(DeviceLanes& device, const Work& work) try {
  std::byte* to = device.constants.data();
  for (const Constant& constant : work.constants) {
    const auto* from = static_cast<const std::byte*>(constant.data);
    const Lane& lane = *device.lanes[0];
    for (std::size_t at = 0; at < constant.size; at += lane.host_in.size()) {
      const std::size_t size = std::min(lane.host_in.size(), constant.size - at);
      std::memcpy(lane.host_in.data(), from + at, size);
      RAQ_CUDA_CHECK(
          cudaMemcpyAsync(to + at, lane.host_in.data(), size, cudaMemcpyHostToDevice, lane.stream));
      RAQ_CUDA_CHECK(cudaStreamSynchronize(lane.stream));
    }
    to += aligned(constant.size);
  }
} catch (...) {
  device.give_up();
  throw;
}

void start(const Work& work, const DeviceLanes& device, Lane& lane, const Part& part) {
  work.fill(part, lane.host_in.data());
  RAQ_CUDA_CHECK(cudaMemcpyAsync(lane.device_in.data(), lane.host_in.data(), work.bytes_in(part.count),
                                 cudaMemcpyHostToDevice, lane.stream));
  work.launch(
      part,
      {lane.device_in.data(), lane.device_out.data(), lane.device_scratch.data(), device.constants.data()},
      lane.stream);
  RAQ_CUDA_CHECK(cudaMemcpyAsync(lane.host_out.data(), lane.device_out.data(), work.bytes_out(part.count),
                                 cudaMemcpyDeviceToHost, lane.stream));
}

// Takes parts until none is left. Every lane is idle afterwards, whatever happened.
void work_through(DeviceLanes& device, const Work& work, std::int64_t chunks_per_part, Parts& parts) {
  std::array<std::optional<Part>, most_lanes> underway;
  bool sound = true;  // false after a failure of CUDA
  const auto attempt = [&](const Part& part, auto&& step) {
    try {
      step();
    } catch (const std::invalid_argument&) {  // the caller's weights
      parts.failed(part.first);
    } catch (...) {
      parts.failed(part.first);
      sound = false;
    }
  };
  const auto finish = [&](std::int64_t i) {
    if (!underway[i]) return;
    const Part part = *underway[i];
    underway[i].reset();
    attempt(part, [&] {
      RAQ_CUDA_CHECK(cudaStreamSynchronize(device.lanes[i]->stream));
      if (parts.matters(part)) work.collect(part, device.lanes[i]->host_out.data());
    });
  };
  std::int64_t turn = 0;
  for (; sound; turn = (turn + 1) % work.lanes) {
    finish(turn);
    if (!sound) break;
    const std::optional<Part> part = parts.take(chunks_per_part);
    if (!part) break;
    underway[turn] = part;
    attempt(*part, [&] { start(work, device, *device.lanes[turn], *part); });
  }
  for (std::int64_t i = 0; i < work.lanes; ++i) finish((turn + i) % work.lanes);
  if (!sound) device.give_up();
}

}  // namespace

void run(const Work& work, std::int64_t most_chunks_per_part, const std::vector<int>& devices) {
  const auto shares = static_cast<std::int64_t>(devices.size()) * work.lanes;
  // Small work is divided among all lanes, so that they overlap.
  const std::int64_t wanted =
      std::clamp<std::int64_t>((work.chunks.count + shares - 1) / shares, 1, most_chunks_per_part);
  Parts parts(work.chunks);
  std::mutex guard;
  std::exception_ptr starved;
  std::size_t starved_count = 0;
  const auto serve = [&](int number) {
    try {
      RAQ_CUDA_CHECK(cudaSetDevice(number));
      const auto [device, lock] = taken(number, work.shares_device);
      const std::int64_t chunks_per_part = prepare(device, work, wanted);
      send_constants(device, work);
      work_through(device, work, chunks_per_part, parts);
    } catch (const OutOfMemory&) {
      // The other devices take its parts; it is an error only if all are short of memory.
      const std::lock_guard lock(guard);
      starved = std::current_exception();
      ++starved_count;
    } catch (...) {
      parts.failed(0);
    }
  };
  std::vector<std::thread> threads;
  for (const int number : devices) threads.emplace_back(serve, number);
  for (std::thread& thread : threads) thread.join();
  parts.rethrow();
  if (starved_count == devices.size()) std::rethrow_exception(starved);
}

void release_lanes() {
  AllLanes& all = all_lanes();
  const std::lock_guard lock(all.guard);
  for (auto& [place, device] : all.devices)
    std::thread([&place = place, &device = device] {
      const std::lock_guard idle(device.busy);
      if (cudaSetDevice(place.first) != cudaSuccess) return;
      for (std::unique_ptr<Lane>& lane : device.lanes) lane.reset();
      device.constants.release();
    }).join();
}

}  // namespace raq::cuda
