#include <algorithm>
#include <array>
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

// One copies in, one computes, one copies out.
constexpr std::int64_t lanes_per_device = 3;

// The lanes of a device, kept from call to call: pinning memory takes longer than quantizing what fits into
// it. Only one call uses them at a time.
struct DeviceLanes {
  std::mutex busy;
  std::array<std::unique_ptr<Lane>, lanes_per_device> lanes;
};

struct AllLanes {
  std::mutex guard;
  std::map<int, DeviceLanes> devices;
};

AllLanes& all_lanes() {
  static AllLanes& all = *new AllLanes;  // never destroyed: at exit the driver may be gone already
  return all;
}

DeviceLanes& lanes_of(int device) {
  AllLanes& all = all_lanes();
  const std::lock_guard lock(all.guard);
  return all.devices[device];
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

// Makes room in every lane for parts of at most `chunk_count` chunks, or of a half, a quarter … of that if
// the device is short of memory. Returns the number of chunks there is room for.
std::int64_t prepare(DeviceLanes& device, const Work& work, std::int64_t chunk_count) {
  for (;; chunk_count /= 2) try {
      const std::int64_t rows = std::min(chunk_count * work.chunks.rows_per_chunk, work.chunks.rows);
      for (std::unique_ptr<Lane>& lane : device.lanes) {
        if (!lane) lane = std::make_unique<Lane>();
        lane->reserve(work.bytes_in(rows), work.bytes_out(rows));
      }
      return chunk_count;
    } catch (const OutOfMemory&) {
      for (std::unique_ptr<Lane>& lane : device.lanes) lane.reset();
      if (chunk_count <= 1) throw;
    }
}

void start(const Work& work, Lane& lane, const Part& part) {
  work.fill(part, lane.host_in.data());
  RAQ_CUDA_CHECK(cudaMemcpyAsync(lane.device_in.data(), lane.host_in.data(), work.bytes_in(part.count),
                                 cudaMemcpyHostToDevice, lane.stream));
  work.launch(part, lane.device_in.data(), lane.device_out.data(), lane.stream);
  RAQ_CUDA_CHECK(cudaMemcpyAsync(lane.host_out.data(), lane.device_out.data(), work.bytes_out(part.count),
                                 cudaMemcpyDeviceToHost, lane.stream));
}

// Takes parts until none is left. Every lane is idle afterwards, whatever happened.
void work_through(DeviceLanes& device, const Work& work, std::int64_t chunks_per_part, Parts& parts) {
  std::array<std::optional<Part>, lanes_per_device> underway;
  bool sound = true;  // false after a failure of CUDA, which may leave lanes in any state
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
  for (; sound; turn = (turn + 1) % lanes_per_device) {
    finish(turn);
    if (!sound) break;
    const std::optional<Part> part = parts.take(chunks_per_part);
    if (!part) break;
    underway[turn] = part;
    attempt(*part, [&] { start(work, *device.lanes[turn], *part); });
  }
  for (std::int64_t i = 0; i < lanes_per_device; ++i) finish((turn + i) % lanes_per_device);
  if (sound) return;
  // Lanes are given up, not kept for the next call. First each must be idle: memory in use may not be freed.
  for (std::unique_ptr<Lane>& lane : device.lanes) {
    cudaStreamSynchronize(lane->stream);
    lane.reset();
  }
  cudaGetLastError();
}

}  // namespace

void run(const Work& work, std::int64_t most_chunks_per_part, const std::vector<int>& devices) {
  const auto shares = static_cast<std::int64_t>(devices.size()) * lanes_per_device;
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
      DeviceLanes& device = lanes_of(number);
      const std::lock_guard lock(device.busy);
      work_through(device, work, prepare(device, work, wanted), parts);
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
  for (auto& [number, device] : all.devices)
    std::thread([&] {
      const std::lock_guard idle(device.busy);
      if (cudaSetDevice(number) != cudaSuccess) return;
      for (std::unique_ptr<Lane>& lane : device.lanes) lane.reset();
    }).join();
}

}  // namespace raq::cuda
