#include <algorithm>
#include <iterator>
#include <memory>

#include "worker/model_config.h"

namespace varve {

KvGeometry ModelConfig::Geometry() const {
  KvGeometry geometry{.num_kv_heads = num_kv_heads,
                      .head_dim = head_dim,
                      .num_qo_heads = num_qo_heads,
                      .sm_scale = sm_scale,
                      .attn_softcap = attn_softcap};
  std::vector<std::shared_ptr<const Rope>> shared;
  std::transform(ropes.begin(),
                 ropes.end(),
                 std::back_inserter(shared),
                 std::make_shared<Rope, const RopeSpec&>);
  for (const LayerConfig& layer : layers) {
    geometry.layer_windows.push_back(layer.window);
    const auto rope = static_cast<size_t>(layer.rope);
    geometry.layer_ropes.push_back(layer.rope < 0 ? nullptr : shared[rope]);
  }
  return geometry;
}

}  // namespace varve
