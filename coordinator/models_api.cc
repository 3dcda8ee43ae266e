#include "coordinator/models_api.h"

#include <fmt/core.h>

#include "coordinator/openai_error.h"
#include "proto/base/hash.h"

#include <nlohmann/json.hpp>

namespace varve {
namespace {

using Json = nlohmann::ordered_json;

Json ModelObject(const ModelDescription& model, int64_t created_unix_s) {
  Json object;
  object["id"] = model.name;
  object["object"] = "model";
  object["created"] = created_unix_s;
  object["owned_by"] = "varve";
  object["architecture"] = model.architecture;
  object["max_model_len"] = model.max_positions;
  object["weights"] = model.weights;
  object["model_hash"] = HashToHex(model.model_hash);
  return object;
}

}  // namespace

void ModelsApi::List(RoutedRequest request) const {
  Json list;
  list["object"] = "list";
  list["data"] = Json::array({ModelObject(workers_->model(), created_unix_s_)});
  request.response->Send(HttpResponse{.body = list.dump()});
}

void ModelsApi::Show(RoutedRequest request) const {
  if (request.name != workers_->model().name) {
    request.response->Send(ErrorResponse(
        ApiError{.error = {ErrorCode::kNotFound,
                           fmt::format("There is no model '{}'; this server has '{}'.",
                                       request.name,
                                       workers_->model().name)},
                 .param = "model",
                 .code = "model_not_found"}));
    return;
  }
  request.response->Send(
      HttpResponse{.body = ModelObject(workers_->model(), created_unix_s_).dump()});
}

}  // namespace varve
