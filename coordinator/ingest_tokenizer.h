// The thread that tokenises received documents, so that neither HTTP nor the engine waits for it.
#pragma once

#include <thread>

namespace varve {

class ContextCatalog;
class TextModel;

class IngestTokenizer {
 public:
  // Starts the thread. Both must outlive this object.
  IngestTokenizer(ContextCatalog* catalog, const TextModel* text_model);
  // Shuts the catalog's tokeniser side down and joins.
  ~IngestTokenizer();
  IngestTokenizer(const IngestTokenizer&) = delete;
  IngestTokenizer& operator=(const IngestTokenizer&) = delete;

 private:
  ContextCatalog* catalog_;
  std::thread thread_;
};

}  // namespace varve
