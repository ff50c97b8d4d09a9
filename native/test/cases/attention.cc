// write_kv, attention, attention_backward.
#include <cmath>

#include "../harness.h"

namespace act::test {
namespace {

struct AttentionCase final : Case {
  int heads, kv_heads, dim;
  ForestShape shape;
  DType dtype;       // of the stored keys and values
  bool all_queries;  // every key is a row of the batch: there is a backward pass
  float scale;

  AttentionCase(std::string what, int heads, int kv_heads, int dim, ForestShape shape, DType dtype)
      : heads(heads),
        kv_heads(kv_heads),
        dim(dim),
        shape(std::move(shape)),
        dtype(dtype),
        scale(static_cast<float>(1 / std::sqrt(dim))) {
    all_queries = true;
    for (const Segment& s : this->shape.segments) all_queries = all_queries && s.key_count == s.query_count;
    name = "attention " + std::move(what) + " H=" + std::to_string(heads) + "/" + std::to_string(kv_heads) +
           " d=" + std::to_string(dim) + (dtype == DType::bf16 ? " bf16" : "");
  }
  bool differentiable() const override { return all_queries && dtype == DType::f32; }
  Tensors inputs(Rng& rng) const override {
    // Keys that are not of this batch are written first, by a batch of the same forest in which they are queries.
    int64_t keys = 0;
    for (const Segment& s : shape.segments) keys += s.key_count;
    const int64_t old = keys - shape.rows;
    return {random(rng, "q", shape.rows, heads * dim), random(rng, "k", shape.rows, kv_heads * dim),
            random(rng, "v", shape.rows, kv_heads * dim), random(rng, "old k", old, kv_heads * dim),
            random(rng, "old v", old, kv_heads * dim)};
  }
  std::unique_ptr<KvPool> fill(Backend& b, const Tensors& in) const {
    auto pool = b.create_kv_pool(2, kv_heads, dim, static_cast<int>(shape.pages.size()), dtype);
    ForestShape before = shape;
    before.rows = 0;
    for (Segment& s : before.segments) {
      s.key_count -= s.query_count;
      s.query_count = s.key_count;
      s.query_row = static_cast<int32_t>(before.rows);
      before.rows += s.query_count;
      s.position = s.parent < 0 ? 0
                                : before.segments[static_cast<size_t>(s.parent)].position +
                                      before.segments[static_cast<size_t>(s.parent)].key_count;
    }
    if (before.rows > 0) {
      const OnDevice k(b, in[3]), v(b, in[4]);
      b.write_kv(*pool, 1, before.forest(), k, v);
    }
    const OnDevice k(b, in[1]), v(b, in[2]);
    b.write_kv(*pool, 1, shape.forest(), k, v);
    return pool;
  }
  Tensors forward(Backend& b, const Tensors& in) const override {
    const auto pool = fill(b, in);
    const OnDevice q(b, in[0]), out(b, shape.rows, heads * dim), lse(b, shape.rows, heads);
    b.attention(out, lse, q, *pool, 1, shape.forest(), scale);
    return {out.read("out"), lse.read("(lse)")};
  }
  Tensors backward(Backend& b, const Tensors& in, const Tensors& seeds) const override {
    if (!all_queries) return {};
    const auto pool = fill(b, in);
    const OnDevice q(b, in[0]), out(b, shape.rows, heads * dim), lse(b, shape.rows, heads), dout(b, seeds[0]);
    const OnDevice dq(b, in[0]), dk(b, in[1]), dv(b, in[2]);  // overwritten whatever they hold
    b.attention(out, lse, q, *pool, 1, shape.forest(), scale);
    b.attention_backward(dq, dk, dv, dout, out, lse, q, *pool, 1, shape.forest(), scale);
    return {dq.read("dq"), dk.read("dk"), dv.read("dv")};
  }
  // A score's error e is at most (2 d + 4) u times the largest scale * sum |q_i k_i|. It moves a probability by the
  // factor 1 + 2 e, and every sum of n terms adds at most (2 n + 8) u. So: relative error r = 2 e + (2 n + 2 d + 24) u
  // of each product p |v|, and of each p (|do| |v| + |do| |o|) |k| or |q| in the gradients.
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    double biggest = 0, keys = 0, value = 0, grad = 0, key = 0;
    auto largest_norm = [&](const Tensor& t) {
      double most = 0;
      for (size_t i = 0; i < t.values.size(); i += static_cast<size_t>(dim)) {
        double sum = 0;
        for (size_t c = 0; c < static_cast<size_t>(dim); c++)
          sum += static_cast<double>(t.values[i + c]) * t.values[i + c];
        most = std::max(most, std::sqrt(sum));
      }
      return most;
    };
    key = std::max(largest_norm(in[1]), largest_norm(in[3]));
    value = std::max(largest_norm(in[2]), largest_norm(in[4]));
    if (dtype == DType::bf16) key *= 1 + 1.0 / 256, value *= 1 + 1.0 / 256;  // rounding may make numbers larger
    grad = largest_norm(seeds[0]);
    const double query = largest_norm(in[0]);
    biggest = scale * query * key;  // Cauchy-Schwarz
    for (const Segment& s : shape.segments) keys = std::max(keys, static_cast<double>(s.position + s.key_count));
    const double e = (2 * dim + 4) * kRoundoff * biggest, r = 2 * e + (2 * keys + 2 * dim + 24) * kRoundoff;
    Tensors all = forward(reference, in);
    for (float& x : all[0].values) x = static_cast<float>(r * value);
    for (float& x : all[1].values) x = static_cast<float>(e + (keys + 8) * kRoundoff + kRoundoff * std::fabs(x));
    if (!all_queries) return all;
    // Probabilities of a query add up to 1; a key meets at most all queries of its group of heads.
    const double meets = static_cast<double>(shape.rows) * heads / kv_heads;
    const double each = 2 * grad * value * scale * (r + 2 * meets * kRoundoff);
    all.push_back(zeros("dq", shape.rows, heads * dim));
    all.push_back(zeros("dk", shape.rows, kv_heads * dim));
    all.push_back(zeros("dv", shape.rows, kv_heads * dim));
    for (float& x : all[2].values) x = static_cast<float>(each * key);
    for (float& x : all[3].values) x = static_cast<float>(each * query * meets);
    for (float& x : all[4].values) x = static_cast<float>((r + 2 * meets * kRoundoff) * grad * meets);
    return all;
  }
};

ForestShape roots(std::initializer_list<int32_t> lengths) {
  ForestShape f;
  for (const int32_t n : lengths) f.add(-1, n, n);
  return f;
}

ForestShape deep_tree() {
  ForestShape f;
  const int32_t root = f.add(-1, 37, 37), a = f.add(root, 5, 5, 5), b = f.add(root, 20, 20);
  f.add(a, 1, 1);
  f.add(b, 9, 9, 3);
  f.add(a, 18, 18, 15);
  f.add(-1, 3, 3);
  return f;
}

/// As the trainer packs a batch (engine/forest.cc): key of row r is lane r % 16 of page r / 16, so segments share pages
/// and lanes have nothing to do with positions. Two groups, a nested turn, a chain, padding trees of one token.
ForestShape packed() {
  ForestShape f;
  const auto add = [&f](int32_t parent, int32_t keys) {
    const int32_t index = f.add(parent, keys, keys), row = f.segments.back().query_row;
    f.segments.back().first_page = row / kPageKeys;
    f.segments.back().first_lane = row % kPageKeys;
    return index;
  };
  const int32_t first = add(-1, 21);
  for (const int32_t keys : {3, 1, 17, 16}) add(first, keys);
  const int32_t turn = add(first, 11);
  add(turn, 6), add(turn, 2);
  add(-1, 1);  // padding
  const int32_t second = add(-1, 33), third = add(second, 15);
  add(add(third, 1), 30);
  add(third, 5);
  add(-1, 1);
  f.pages.resize(static_cast<size_t>((f.rows + kPageKeys - 1) / kPageKeys));
  for (size_t p = 0; p < f.pages.size(); p++) f.pages[p] = static_cast<int32_t>(f.pages.size() - 1 - p);  // in any order
  return f;
}

/// One decoding step: every sequence has one new token, prompts are shared.
ForestShape decode() {
  ForestShape f;
  const int32_t first = f.add(-1, 35, 0), second = f.add(-1, 16, 0), turn = f.add(first, 7, 0, 3);
  for (int i = 0; i < 9; i++) f.add(first, 1 + 3 * i, 1, 3);
  for (int i = 0; i < 4; i++) f.add(turn, 2 + i, 1, 10);
  f.add(second, 40, 1);
  f.add(-1, 50, 1);
  f.add(second, 9, 4);
  return f;
}

/// One decoding step past the CUDA backend's first partition of 512 keys: a lone sequence, and a group whose prompt ends
/// inside the second partition and inside a page.
ForestShape long_decode() {
  ForestShape f;
  f.add(-1, 1030, 1);
  const int32_t prompt = f.add(-1, 531, 0);
  for (int i = 0; i < 3; i++) f.add(prompt, 20 + 9 * i, 1, 3);
  f.add(-1, 512, 1);
  return f;
}

void add_attention_timing(std::vector<Timing>& timings, std::string name, const ForestShape& shape, int heads,
                          int kv_heads, int dim, DType dtype, bool backward) {
  double pairs = 0;
  for (const Segment& s : shape.segments) {
    for (int32_t i = 0; i < s.query_count; i++) pairs += s.position + s.key_count - s.query_count + i + 1;
  }
  Timing t;
  t.name = (backward ? "attention_backward " : "attention ") + name + (dtype == DType::bf16 ? " bf16" : "");
  t.flops = pairs * heads * dim * (backward ? 10 : 4);
  t.bytes = 0;
  t.prepare = [=](Backend& b) -> std::function<void()> {
    Rng rng(1);
    struct State {
      ForestShape shape;
      std::unique_ptr<KvPool> pool;
      std::unique_ptr<OnDevice> q, k, v, out, lse, dq, dk, dv;
    };
    auto s = std::make_shared<State>();
    s->shape = shape;
    s->pool = b.create_kv_pool(1, kv_heads, dim, static_cast<int>(shape.pages.size()), dtype);
    auto fresh = [&](int n) { return std::make_unique<OnDevice>(b, random(rng, "", shape.rows, n * dim)); };
    s->q = fresh(heads), s->k = fresh(kv_heads), s->v = fresh(kv_heads), s->out = fresh(heads);
    s->dq = fresh(heads), s->dk = fresh(kv_heads), s->dv = fresh(kv_heads);
    s->lse = std::make_unique<OnDevice>(b, shape.rows, heads);
    b.write_kv(*s->pool, 0, s->shape.forest(), *s->k, *s->v);
    b.attention(*s->out, *s->lse, *s->q, *s->pool, 0, s->shape.forest(), 0.125f);
    return [s, backward, &b] {
      if (backward) {
        b.attention_backward(*s->dq, *s->dk, *s->dv, *s->q, *s->out, *s->lse, *s->q, *s->pool, 0, s->shape.forest(),
                             0.125f);
      } else {
        b.attention(*s->out, *s->lse, *s->q, *s->pool, 0, s->shape.forest(), 0.125f);
      }
    };
  };
  timings.push_back(std::move(t));
}

}  // namespace

void attention_cases(Cases& cases) {
  auto add = [&](const char* what, int heads, int kv_heads, int dim, const ForestShape& shape) {
    for (const DType dtype : {DType::f32, DType::bf16})
      cases.push_back(std::make_unique<AttentionCase>(what, heads, kv_heads, dim, shape, dtype));
  };
  add("one key", 1, 1, 2, roots({1}));
  add("roots", 4, 2, 16, roots({7, 1, 33}));
  add("roots", 9, 3, 64, roots({50, 16}));
  add("tree", 6, 2, 20, deep_tree());
  add("tree", 2, 2, 96, deep_tree());
  add("packed", 4, 2, 32, packed());
  add("decode", 9, 3, 64, decode());
  add("decode", 4, 1, 12, decode());
  add("long decode", 4, 2, 16, long_decode());
}

void attention_timings(std::vector<Timing>& timings) {
  ForestShape flat, tree, step, lone, episodes;
  for (int i = 0; i < 8; i++) flat.add(-1, 256, 256);
  for (int p = 0; p < 4; p++) {
    const int32_t prompt = tree.add(-1, 58, 58);
    for (int i = 0; i < 8; i++) tree.add(prompt, 64, 64, 10);
    const int32_t read = step.add(-1, 58, 0);
    for (int i = 0; i < 8; i++) step.add(read, 48, 1, 10);
  }
  for (int i = 0; i < 32; i++) lone.add(-1, 80, 1);
  for (int i = 0; i < 128; i++) episodes.add(-1, 1000, 1);  // 64 MB of keys and values: more than most caches hold
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool backward : {false, true}) {
      add_attention_timing(timings, "8x256 H=9/3 d=64", flat, 9, 3, 64, dtype, backward);
      add_attention_timing(timings, "8x256 H=16/8 d=128", flat, 16, 8, 128, dtype, backward);
      add_attention_timing(timings, "4 x (58 + 8x64) H=9/3 d=64", tree, 9, 3, 64, dtype, backward);
    }
    add_attention_timing(timings, "decode 4x8 of 58+48 H=9/3 d=64", step, 9, 3, 64, dtype, false);
    add_attention_timing(timings, "decode 32 of 80 H=9/3 d=64", lone, 9, 3, 64, dtype, false);
    add_attention_timing(timings, "decode 128 of 1000 H=6/2 d=32", episodes, 6, 2, 32, dtype, false);
  }
}

}  // namespace act::test
