// How `varve ingest --kv-codec` and tables write the codecs of a context: NAME, or HOT,WARM,COLD of
// a ladder, where WARM may be empty and COLD left out.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

namespace varve::cli {

// From the server's "codec": a string or an object.
std::string CodecText(const nlohmann::json& codec);
// For the server.
nlohmann::json CodecObject(const std::string& text);

}  // namespace varve::cli
