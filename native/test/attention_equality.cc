// Attention's bits depend on a query's own keys only: not on pages, lanes, batches, neighbors or the forest's shape.
#include <cmath>

#include "harness.h"

namespace act::test {
namespace {

constexpr int kHeads = 6, kKvHeads = 2, kDim = 40;
constexpr float kScale = 0.15811388f;

struct Row {
  std::vector<float> q, k, v;
};
Row make_row(uint64_t id) {
  Rng rng(id);
  auto fill = [&](int n) {
    std::vector<float> x(static_cast<size_t>(n * kDim));
    for (float& e : x) e = rng.normal();
    return x;
  };
  return {fill(kHeads), fill(kKvHeads), fill(kKvHeads)};
}

/// Runs one batch whose row i is the token ids[i] and returns out and lse.
Tensors run(Backend& b, KvPool& pool, const ForestShape& shape, const std::vector<uint64_t>& ids) {
  Tensor q = zeros("q", shape.rows, kHeads * kDim), k = zeros("k", shape.rows, kKvHeads * kDim), v = k;
  for (size_t i = 0; i < ids.size(); i++) {
    const Row row = make_row(ids[i]);
    std::copy(row.q.begin(), row.q.end(), q.values.begin() + static_cast<int64_t>(i) * q.cols);
    std::copy(row.k.begin(), row.k.end(), k.values.begin() + static_cast<int64_t>(i) * k.cols);
    std::copy(row.v.begin(), row.v.end(), v.values.begin() + static_cast<int64_t>(i) * v.cols);
  }
  const OnDevice dq(b, q), dk(b, k), dv(b, v), out(b, shape.rows, q.cols), lse(b, shape.rows, kHeads);
  b.write_kv(pool, 0, shape.forest(), dk, dv);
  b.attention(out, lse, dq, pool, 0, shape.forest(), kScale);
  return {out.read("out"), lse.read("lse")};
}

void expect_row(const Tensors& got, int64_t row, const Tensors& want, int64_t want_row, const std::string& what) {
  for (size_t t = 0; t < 2; t++) {
    Tensor a = zeros("", 1, got[t].cols), b = a;
    std::copy_n(got[t].values.begin() + row * a.cols, a.cols, a.values.begin());
    std::copy_n(want[t].values.begin() + want_row * a.cols, a.cols, b.values.begin());
    expect_same_bits(a, b, what + " " + want[t].name + " row " + std::to_string(want_row));
  }
}

std::vector<uint64_t> sequence(uint64_t name, int from, int count) {
  std::vector<uint64_t> ids;
  for (int i = from; i < from + count; i++) ids.push_back(name * 1000 + static_cast<uint64_t>(i));
  return ids;
}
void append(std::vector<uint64_t>& to, const std::vector<uint64_t>& ids) {
  to.insert(to.end(), ids.begin(), ids.end());
}

/// Results of the flat sequence prompt + tail, in one batch on one thread: what everything else must equal.
Tensors flat(Isa isa, DType dtype, const std::vector<uint64_t>& ids) {
  auto b = make_cpu_backend(1, isa);
  ForestShape shape;
  shape.add(-1, static_cast<int32_t>(ids.size()), static_cast<int32_t>(ids.size()));
  auto pool = b->create_kv_pool(1, kKvHeads, kDim, static_cast<int>(shape.pages.size()), dtype);
  return run(*b, *pool, shape, ids);
}

void forest_equals_flat(Isa isa, DType dtype) {
  // A prompt of 21 tokens, two turns below it, and siblings that start in the middle of pages of their own.
  const auto prompt = sequence(1, 0, 21), turn = sequence(2, 0, 6);
  auto b = make_cpu_backend(2, isa);
  ForestShape shape;
  std::vector<uint64_t> ids;
  struct Leaf {
    std::vector<uint64_t> path;
    int64_t first_row, own;
  };
  std::vector<Leaf> leaves;
  const int32_t root = shape.add(-1, 21, 21);
  append(ids, prompt);
  leaves.push_back({prompt, 0, 21});
  const int32_t below = shape.add(root, 6, 6, 5);
  append(ids, turn);
  for (int i = 0; i < 5; i++) {
    const int32_t parent = i % 2 ? below : root;
    const auto own = sequence(static_cast<uint64_t>(10 + i), 0, 3 + 13 * i);
    std::vector<uint64_t> path = prompt;
    if (parent == below) append(path, turn);
    append(path, own);
    leaves.push_back({path, shape.rows, static_cast<int64_t>(own.size())});
    shape.add(parent, static_cast<int32_t>(own.size()), static_cast<int32_t>(own.size()), i * 3);
    append(ids, own);
  }
  auto pool = b->create_kv_pool(1, kKvHeads, kDim, static_cast<int>(shape.pages.size()), dtype);
  const Tensors got = run(*b, *pool, shape, ids);
  for (const Leaf& leaf : leaves) {
    const Tensors want = flat(isa, dtype, leaf.path);
    for (int64_t i = 0; i < leaf.own; i++) {
      expect_row(got, leaf.first_row + i, want, static_cast<int64_t>(leaf.path.size()) - leaf.own + i, "forest");
    }
  }
}

void decode_equals_prefill(Isa isa, DType dtype) {
  // Three sequences share a prompt prefilled in pieces; then one token of each per step, joined late and left early.
  const auto prompt = sequence(1, 0, 29);
  auto b = make_cpu_backend(2, isa);
  ForestShape layout;  // all pages, whatever a step uses of them
  const int32_t root = layout.add(-1, 29, 29);
  for (int i = 0; i < 3; i++) layout.add(root, 20, 20, 13);
  auto pool = b->create_kv_pool(1, kKvHeads, kDim, static_cast<int>(layout.pages.size()), dtype);
  {  // What an earlier user left in the pages must not matter, not even NaN.
    Tensor stale = zeros("", layout.rows, kKvHeads * kDim);
    for (float& x : stale.values) x = NAN;
    const OnDevice kv(*b, stale);
    b->write_kv(*pool, 0, layout.forest(), kv, kv);
  }
  std::vector<Tensors> want;
  for (int i = 0; i < 3; i++) {
    auto path = prompt;
    append(path, sequence(static_cast<uint64_t>(2 + i), 0, 20));
    want.push_back(flat(isa, dtype, path));
  }
  for (const auto& [first, count] : {std::pair{0, 3}, {3, 14}, {17, 12}}) {
    ForestShape piece = layout;
    piece.segments.resize(1);
    piece.segments[0].key_count = first + count;
    piece.segments[0].query_count = count;
    piece.rows = count;
    const Tensors got = run(*b, *pool, piece, sequence(1, first, count));
    for (int i = 0; i < count; i++) expect_row(got, i, want[0], first + i, "prefill");
  }
  for (int step = 0; step < 20; step++) {
    ForestShape now = layout;
    now.rows = 0;
    now.segments[0].query_count = 0;
    std::vector<uint64_t> ids;
    std::vector<int> who;
    std::vector<Segment> segments{now.segments[0]};
    for (int i = 0; i < 3; i++) {
      if (step < i || (i == 0 && step > 15)) continue;
      Segment s = now.segments[static_cast<size_t>(1 + i)];
      s.key_count = step - i + 1;
      s.query_count = 1;
      s.query_row = static_cast<int32_t>(now.rows++);
      segments.push_back(s);
      who.push_back(i);
      append(ids, sequence(static_cast<uint64_t>(2 + i), step - i, 1));
    }
    now.segments = segments;
    const Tensors got = run(*b, *pool, now, ids);
    for (size_t r = 0; r < who.size(); r++) {
      expect_row(got, static_cast<int64_t>(r), want[static_cast<size_t>(who[r])], 29 + step - who[r], "decode");
    }
  }
}

void backward_is_stable(Isa isa, DType dtype) {
  // One tree's gradients do not depend on the threads or on another tree beside it.
  auto gradients = [&](int threads, bool neighbor) {
    auto b = make_cpu_backend(threads, isa);
    ForestShape shape;
    if (neighbor) shape.add(-1, 19, 19);
    const auto first = shape.rows;
    const int32_t root = shape.add(-1, 33, 33);
    for (int i = 0; i < 3; i++) shape.add(root, 24 + i, 24 + i, 1);
    Rng rng(21);
    const int64_t rows = shape.rows - first, width = kHeads * kDim, kv_width = kKvHeads * kDim;
    auto filled = [&](int64_t cols) {
      const Tensor own = random(rng, "", rows, cols);
      Tensor all = zeros("", shape.rows, cols);
      for (size_t i = 0; i < all.values.size(); i++) all.values[i] = 0.3f * static_cast<float>(i % 7);
      std::copy(own.values.begin(), own.values.end(), all.values.begin() + first * cols);
      return all;
    };
    const OnDevice q(*b, filled(width)), k(*b, filled(kv_width)), v(*b, filled(kv_width)), dout(*b, filled(width));
    const OnDevice out(*b, shape.rows, width), lse(*b, shape.rows, kHeads), dq(*b, shape.rows, width),
        dk(*b, shape.rows, kv_width), dv(*b, shape.rows, kv_width);
    auto pool = b->create_kv_pool(1, kKvHeads, kDim, static_cast<int>(shape.pages.size()), dtype);
    b->write_kv(*pool, 0, shape.forest(), k, v);
    b->attention(out, lse, q, *pool, 0, shape.forest(), kScale);
    b->attention_backward(dq, dk, dv, dout, out, lse, q, *pool, 0, shape.forest(), kScale);
    Tensors all{dq.read("dq"), dk.read("dk"), dv.read("dv")};
    for (Tensor& t : all) t.values.erase(t.values.begin(), t.values.begin() + first * t.cols);
    return all;
  };
  const Tensors want = gradients(1, false);
  for (const Tensors& got : {gradients(3, false), gradients(2, true)}) {
    for (size_t i = 0; i < want.size(); i++) expect_same_bits(got[i], want[i], want[i].name);
  }
}

}  // namespace

void attention_equality_checks(std::vector<Check>& checks) {
  for (const Isa isa : available_isas()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const std::string of = isa_name(isa) + (dtype == DType::f32 ? " fp32" : " bf16");
      checks.push_back({"equal attention forest and flat " + of, [=] { forest_equals_flat(isa, dtype); }});
      checks.push_back({"equal attention decode and prefill " + of, [=] { decode_equals_prefill(isa, dtype); }});
      checks.push_back(
          {"equal attention gradients, threads and neighbors " + of, [=] { backward_is_stable(isa, dtype); }});
    }
  }
}

}  // namespace act::test
