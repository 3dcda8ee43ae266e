// Parses one `varve` command line, applies the settings and runs the command.
#pragma once

namespace varve::cli {

// Returns the exit code (exit_code.h).
int RunCommandLine(int argc, const char* const* argv);

}  // namespace varve::cli
