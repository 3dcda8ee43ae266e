#include "ops/cli/plan/machine.h"

#include <cmath>
#include <functional>

#include <fmt/format.h>

#include "proto/base/units.h"

#include <yaml-cpp/yaml.h>

namespace varve::cli {
namespace {

Error Invalid(std::string message) {
  return Error{ErrorCode::kInvalidArgument, std::move(message)};
}

// PCIe 5 and one Gen5 NVMe drive as they are seen in practice, and what decode kernels and matrix
// products reach on these GPUs.
Machine Gpu(std::string name, uint64_t memory, double bandwidth) {
  Machine machine;
  machine.name = std::move(name);
  machine.device_memory = memory;
  machine.host_memory = 256 * kGiB;
  machine.read_bandwidth = bandwidth;
  machine.host_bandwidth = 50e9;
  machine.disk_bandwidth = 12e9;
  machine.flops = 989e12;
  machine.exchange_us = 15;
  machine.matmul_efficiency = 0.55;
  machine.attention_efficiency = 0.55;
  machine.weights_efficiency = 0.8;
  machine.kv_efficiency = 0.8;
  return machine;
}

struct Field {
  const char* key;
  bool is_size;  // else a number; of both, none is negative
  std::function<void(Machine&, double)> set;
};

const std::vector<Field>& Fields() {
  const auto size = [](uint64_t Machine::*member) {
    return [member](Machine& machine, double value) {
      machine.*member = static_cast<uint64_t>(value);
    };
  };
  const auto number = [](double Machine::*member) {
    return [member](Machine& machine, double value) { machine.*member = value; };
  };
  static const std::vector<Field> fields = {
      {"device_memory", true, size(&Machine::device_memory)},
      {"host_memory", true, size(&Machine::host_memory)},
      {"disk", true, size(&Machine::disk)},
      {"read_bandwidth", true, number(&Machine::read_bandwidth)},
      {"host_bandwidth", true, number(&Machine::host_bandwidth)},
      {"disk_bandwidth", true, number(&Machine::disk_bandwidth)},
      {"flops", false, number(&Machine::flops)},
      {"exchange_us", false, number(&Machine::exchange_us)},
      {"matmul_efficiency", false, number(&Machine::matmul_efficiency)},
      {"attention_efficiency", false, number(&Machine::attention_efficiency)},
      {"weights_efficiency", false, number(&Machine::weights_efficiency)},
      {"kv_efficiency", false, number(&Machine::kv_efficiency)}};
  return fields;
}

Result<double> ParseNumber(const std::string& text, bool is_size) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (!text.empty() && *end == '\0' && std::isfinite(number) && number >= 0) {
    return number;
  }
  if (is_size) {
    if (const Result<uint64_t> bytes = ParseBytes(text)) {
      return static_cast<double>(*bytes);
    }
  }
  return Invalid(fmt::format("'{}' is no {}", text, is_size ? "size" : "number from 0 on"));
}

Result<void> Apply(const std::string& key, const std::string& value, Machine& machine) {
  if (key == "name") {
    machine.name = value;
    return {};
  }
  if (key == "workers_share") {
    if (value != "true" && value != "false") {
      return Invalid(fmt::format("'{}' is neither true nor false", value));
    }
    machine.workers_share = value == "true";
    return {};
  }
  for (const Field& field : Fields()) {
    if (key == field.key) {
      VARVE_TRY(const double number, ParseNumber(value, field.is_size));
      field.set(machine, number);
      return {};
    }
  }
  return Invalid("there is no such key");
}

Result<void> CheckRates(const Machine& machine, const std::string& file) {
  const std::pair<const char*, double> needed[] = {
      {"read_bandwidth", machine.read_bandwidth},
      {"host_bandwidth", machine.host_bandwidth},
      {"disk_bandwidth", machine.disk_bandwidth},
      {"flops", machine.flops},
      {"matmul_efficiency", machine.matmul_efficiency},
      {"attention_efficiency", machine.attention_efficiency},
      {"weights_efficiency", machine.weights_efficiency},
      {"kv_efficiency", machine.kv_efficiency}};
  for (const auto& [key, value] : needed) {
    if (value <= 0) {
      return Invalid(fmt::format("{}: \"{}\" must be above 0", file, key));
    }
  }
  return {};
}

}  // namespace

Result<Machine> MachinePreset(std::string_view name) {
  if (name == "h100") {
    return Gpu("h100", 80 * kGiB, 3.35e12);
  }
  if (name == "h200") {
    return Gpu("h200", 141'000'000'000, 4.8e12);
  }
  return Invalid(fmt::format(
      "there is no machine '{}'; there are h100, h200, here, and files that describe one", name));
}

Result<Machine> ParseMachine(std::string_view text, const std::string& file) {
  try {
    const YAML::Node root = YAML::Load(std::string(text));
    if (!root.IsMap()) {
      return Invalid(fmt::format("{}: a machine is a table of `key: value` lines", file));
    }
    std::string like = "h100";
    if (const YAML::Node named = root["like"]; named && named.IsScalar()) {
      like = named.as<std::string>();
    }
    VARVE_TRY(Machine machine, MachinePreset(like));
    machine.name = file;
    for (const auto& entry : root) {
      const auto key = entry.first.as<std::string>();
      if (key == "like") {
        continue;
      }
      const Result<void> applied =
          entry.second.IsScalar()
              ? Apply(key, entry.second.as<std::string>(), machine)
              : Result<void>(Invalid("its value must be plain text or a number"));
      if (!applied) {
        return Invalid(fmt::format("{}: \"{}\": {}", file, key, applied.error().message));
      }
    }
    VARVE_RETURN_IF_ERROR(CheckRates(machine, file));
    return machine;
  } catch (const YAML::Exception& failure) {
    return Invalid(fmt::format("{} is neither valid YAML nor JSON: {}", file, failure.what()));
  }
}

}  // namespace varve::cli
