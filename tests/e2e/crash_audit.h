// Looks at the data directory of a server that died, as the next one will find it.
#pragma once

#include <string>

namespace varve {

// Opens the directory with this number of workers, as a restart does, and reads every page, tail,
// text and token of every context. Fails the test if something that a manifest names is missing or
// damaged, or if anything else is left.
void AuditDirectory(const std::string& data_dir, int num_workers);

}  // namespace varve
