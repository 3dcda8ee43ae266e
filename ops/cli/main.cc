// `varve`: the one binary. Next: command_line.cc.
#include "ops/cli/command_line.h"

int main(int argc, char** argv) {
  return varve::cli::RunCommandLine(argc, argv);
}
