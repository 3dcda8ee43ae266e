// Ctrl-C and SIGTERM in the commands that talk to a server: they finish what they print, say how to
// go on, and exit 130. `varve serve` has its own way to stop (serve_command.cc).
#pragma once

#include <cstdint>

namespace varve::cli {

// From now on SIGINT and SIGTERM set a flag; a second one ends the process at once.
void CatchInterrupts();

bool Interrupted();

// Sleeps; returns early, and false, when interrupted.
bool SleepUnlessInterrupted(int64_t milliseconds);

}  // namespace varve::cli
