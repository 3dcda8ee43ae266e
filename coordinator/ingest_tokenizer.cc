#include "coordinator/ingest_tokenizer.h"

#include "coordinator/context_catalog.h"
#include "coordinator/text_model.h"

namespace varve {

IngestTokenizer::IngestTokenizer(ContextCatalog* catalog, const TextModel* text_model)
    : catalog_(catalog), thread_([catalog, text_model] {
        while (const std::optional<TextPiece> piece = catalog->WaitForPiece()) {
          catalog->AddPiece(*piece,
                            text_model->EncodeDocument(piece->text, piece->is_continuation));
        }
      }) {}

IngestTokenizer::~IngestTokenizer() {
  catalog_->Shutdown();
  thread_.join();
}

}  // namespace varve
