// The subcommands of `varve`, one file each. A command registers its flags and help; what it does
// runs after the settings were applied (settings.h), by the function that it leaves in the
// Invocation.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace varve::cli {

inline constexpr const char* kDefaultServer = "http://127.0.0.1:8080";

// What the command line chose.
struct Invocation {
  CLI::App* command = nullptr;
  std::function<int()> run;  // returns the exit code (exit_code.h)
};

void AddServeCommand(CLI::App& root, Invocation& chosen);
void AddIngestCommand(CLI::App& root, Invocation& chosen);
void AddAskCommand(CLI::App& root, Invocation& chosen);
void AddContextsCommand(CLI::App& root, Invocation& chosen);
void AddDoctorCommand(CLI::App& root, Invocation& chosen);
void AddBenchCommand(CLI::App& root, Invocation& chosen);
void AddCalibrateCommand(CLI::App& root, Invocation& chosen);
void AddEvalCommand(CLI::App& root, Invocation& chosen);
void AddPlanCommand(CLI::App& root, Invocation& chosen);
void AddVersionCommand(CLI::App& root, Invocation& chosen);

}  // namespace varve::cli
