#include "ops/cli/plan/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/result_matchers.h"

namespace varve::cli {
namespace {

TEST(Machine, DescriptionsChangeWhatTheyName) {
  const auto machine = ParseMachine(
      "name: rack\nlike: h200\ndisk: 4TiB\ndisk_bandwidth: 24e9\nworkers_share: true\n", "m.yaml");
  ASSERT_OK(machine);
  EXPECT_EQ(machine->name, "rack");
  EXPECT_EQ(machine->disk, uint64_t{4} << 40);
  EXPECT_EQ(machine->disk_bandwidth, 24e9);
  EXPECT_TRUE(machine->workers_share);
  EXPECT_EQ(machine->read_bandwidth, MachinePreset("h200")->read_bandwidth);
  // JSON is YAML.
  const auto json = ParseMachine(R"({"flops": 1e15, "device_memory": "64GiB"})", "m.json");
  ASSERT_OK(json);
  EXPECT_EQ(json->flops, 1e15);
  EXPECT_EQ(json->device_memory, uint64_t{64} << 30);
  EXPECT_EQ(json->name, "m.json");
}

TEST(Machine, SaysWhichKeyOfWhichFileIsWrong) {
  const std::pair<const char*, const char*> wrong[] = {
      {"bandwith: 3", "m.yaml: \"bandwith\": there is no such key"},
      {"flops: fast", "m.yaml: \"flops\": 'fast'"},
      {"flops: 64GiB", "m.yaml: \"flops\": '64GiB'"},
      {"flops: 0", "m.yaml: \"flops\" must be above 0"},
      {"disk: -1", "m.yaml: \"disk\": '-1'"},
      {"disk: [1, 2]", "m.yaml: \"disk\": its value must be plain"},
      {"like: h300", "'h300'"},
      {"workers_share: 2", "neither true nor false"},
      {"- a", "m.yaml: a machine is a table"},
      {"{", "m.yaml is neither valid YAML nor JSON"}};
  for (const auto& [text, message] : wrong) {
    const auto machine = ParseMachine(text, "m.yaml");
    ASSERT_ERROR(machine, ErrorCode::kInvalidArgument) << text;
    EXPECT_THAT(machine.error().message, testing::HasSubstr(message));
  }
}

}  // namespace
}  // namespace varve::cli
