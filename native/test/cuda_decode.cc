// Decoding on the device: how attention is cut into tiles and partitions, and steps that are replayed.
#include "../ops/cuda/device.h"
#include "../ops/cuda/forest_plan.h"
#include "cuda_checks.h"
#include "cuda_waiting.h"

namespace act::test {
namespace {

// --- the plan -----------------------------------------------------------------------------------------------------------

cuda::ForestPlan plan_of(const ForestShape& shape, const cuda::PlanRule& rule) {
  cuda::ForestPlan plan;
  plan.build(shape.forest(), rule, static_cast<int>(shape.pages.size()));
  return plan;
}

/// What every plan must hold: each query meets each of its keys once, in ascending order within a partition, in a tile of
/// that partition, and partitions are complete. Returns how many tiles have work.
int check_plan(const ForestShape& shape, const cuda::ForestPlan& plan) {
  const int partition = plan.rule().partition;
  std::vector<std::vector<std::vector<int32_t>>> met(plan.queries.size());  // by query and partition: slots
  int working = 0;
  for (const cuda::PlanPiece& piece : plan.pieces) {
    for (size_t t = piece.first_tile; t < piece.first_tile + piece.tiles; t++) {
      const cuda::QueryTile& tile = plan.tiles[t];
      expect(tile.queries > 0 && tile.first_key == tile.partition * partition, "a tile without work, or of another partition");
      working++;
      for (int32_t q = 0; q < tile.queries; q++) {
        const cuda::TreeQuery& query = plan.queries[static_cast<size_t>(tile.first_query + q)];
        auto& parts = met[static_cast<size_t>(tile.first_query + q)];
        parts.resize(static_cast<size_t>((query.keys + partition - 1) / partition));
        int32_t before = -1;
        for (int32_t b = 0; b < tile.blocks; b++) {
          const cuda::KeyBlock& block = plan.blocks[piece.first_block + static_cast<size_t>(tile.first_block + b)];
          expect(block.base / partition == tile.partition && block.base % kPageKeys == 0, "a block outside its partition");
          if (q < block.first || q > block.last || block.base >= query.keys) continue;
          expect(block.base > before, "blocks of a query do not ascend");
          before = block.base;
          for (int32_t i = 0; i < kPageKeys && block.base + i < query.keys; i++) {
            parts[static_cast<size_t>(tile.partition)].push_back(block.slot[i]);
          }
        }
      }
    }
  }
  for (size_t i = 0; i < met.size(); i++) {
    const cuda::TreeQuery& query = plan.queries[i];
    expect((query.first_partial >= 0) == (met[i].size() > 1), "partial results and number of partitions disagree");
    std::vector<int32_t> got, want;
    for (const auto& part : met[i]) got.insert(got.end(), part.begin(), part.end());
    // The path of the query's segment, root first.
    std::vector<const Segment*> path;
    for (const Segment& s : shape.segments) {
      if (query.row >= s.query_row && query.row < s.query_row + s.query_count) path.push_back(&s);
    }
    while (path.back()->parent >= 0) path.push_back(&shape.segments[static_cast<size_t>(path.back()->parent)]);
    for (auto s = path.rbegin(); s != path.rend(); ++s) {
      for (int32_t k = 0; k < (*s)->key_count && static_cast<int32_t>(want.size()) < query.keys; k++) {
        const int32_t lane = (*s)->first_lane + k;
        want.push_back(shape.pages[static_cast<size_t>((*s)->first_page + lane / kPageKeys)] * kPageKeys + lane % kPageKeys);
      }
    }
    expect(got == want, "query " + std::to_string(i) + " does not meet its keys once, in order");
  }
  return working;
}

/// Groups of a shared prompt whose completions have `own` keys.
ForestShape groups(int count, int of, int32_t prompt, int32_t own) {
  ForestShape shape;
  for (int g = 0; g < count; g++) {
    const int32_t shared = shape.add(-1, prompt, 0);
    for (int i = 0; i < of; i++) shape.add(shared, own + i, 1, prompt % kPageKeys);
  }
  return shape;
}

void groups_are_shared_where_it_pays() {
  const auto tiles = [](const ForestShape& shape, int side_by_side) {
    const cuda::ForestPlan plan = plan_of(shape, {.group = 2, .kv_heads = 8, .partition = 512, .side_by_side = side_by_side});
    return check_plan(shape, plan);
  };
  // One group, 700 + 150 keys: the first partition is shared whatever the device. In the second, 11 blocks are shared and
  // 8 x 11 are not: together 99 steps one after the other, apart 22. On a device with places for all of them: apart.
  expect(tiles(groups(1, 8, 700, 150), 528) == 1 + 8, "one group on a large device: the own keys apart");
  // Of G groups, apart: 208 G steps x 8 heads over 528 places. That reaches 99 at 32 groups.
  expect(tiles(groups(31, 8, 700, 150), 528) == 31 * 9, "31 groups: apart");
  expect(tiles(groups(32, 8, 700, 150), 528) == 32 * 2, "32 groups: together");
  // The same group on a device of four places.
  expect(tiles(groups(1, 8, 700, 150), 4) == 2, "one group on a small device: together");
  // Completions that have just begun share nearly everything.
  expect(tiles(groups(1, 8, 700, 1), 528) == 2, "short completions: together");
  // What the backward pass reads is never taken apart.
  ForestShape training;
  const int32_t prompt = training.add(-1, 20, 20);
  for (int i = 0; i < 8; i++) training.add(prompt, 90, 90, 4);
  const cuda::ForestPlan plan = plan_of(training, {.group = 1, .kv_heads = 1, .partition = 64, .side_by_side = 528});
  check_plan(training, plan);
  int32_t queries = 0;
  for (const cuda::QueryTile& run : plan.runs) queries += run.queries;
  expect(queries == training.rows, "a training plan keeps its runs");
}

void plans_hold_what_they_must() {
  Rng rng(31);
  for (int round = 0; round < 60; round++) {
    ForestShape shape;
    const bool decoding = round % 2 == 0;
    for (int tree = 0; tree < 1 + round % 4; tree++) {
      std::vector<int32_t> nodes{-1};
      for (int i = 0; i < 1 + rng.below(9); i++) {
        const int32_t keys = 1 + rng.below(70), from = rng.below(static_cast<int32_t>(nodes.size()));
        const int32_t parent = nodes[static_cast<size_t>(from)];
        if (i > 0 && parent < 0) continue;
        nodes.push_back(shape.add(parent, keys, decoding ? rng.below(2) : keys, rng.below(kPageKeys)));
        if (i == 0) nodes.erase(nodes.begin());
      }
    }
    cuda::PlanRule rule{.group = 1 + rng.below(5), .kv_heads = 2, .partition = 16 << rng.below(4)};
    rule.side_by_side = 1 + rng.below(400);
    if (round % 3 == 0) rule.max_partials = 8;  // several pieces
    check_plan(shape, plan_of(shape, rule));
  }
}

// --- bits ---------------------------------------------------------------------------------------------------------------

/// One step of a group: whether its queries share tiles must not show in the bits.
void sharing_changes_no_bit(const Device& device, DType dtype) {
  constexpr int kHeads = 4, kKvHeads = 2, kDim = 16;
  const ForestShape step = groups(1, 6, 35, 40);
  ForestShape filled = step;  // everything once, as queries
  filled.rows = 0;
  for (Segment& s : filled.segments) {
    s.query_count = s.key_count, s.query_row = static_cast<int32_t>(filled.rows);
    filled.rows += s.query_count;
  }
  Rng rng(12);
  const Tensor q = random(rng, "q", step.rows, kHeads * kDim), k = random(rng, "k", filled.rows, kKvHeads * kDim),
               v = random(rng, "v", filled.rows, kKvHeads * kDim);
  const auto attend = [&](const std::string& places) {
    Device sized = device;
    sized.partition = "48", sized.places = places;
    const auto b = sized.open(dtype);
    const auto pool = b->create_kv_pool(1, kKvHeads, kDim, static_cast<int>(step.pages.size()), dtype);
    const Buffer queries = on_device(*b, q, dtype), keys = on_device(*b, k, dtype), values = on_device(*b, v, dtype);
    const Buffer out(*b, step.rows, kHeads * kDim, dtype);
    b->write_kv(*pool, 0, filled.forest(), keys.view(), values.view());
    b->attention(out.view(), {}, queries.view(), *pool, 0, step.forest(), 0.2f);
    return read_back(*b, out.view());
  };
  expect_same_bits(attend("400"), attend("1"), "queries apart and together");
}

// --- recorded steps -----------------------------------------------------------------------------------------------------

/// A device that writes down what it is asked to do.
class Diary final : public cuda::Device {
 public:
  std::string text;  // kernels' names; [ ] around those of a graph
  size_t limit = 1000, each = 10;
  bool full = false;

  std::string describe() const override { return "a diary"; }
  void* allocate(size_t) override { return nullptr; }
  void release(void*) noexcept override {}
  void* allocate_host(size_t) override { return nullptr; }
  void release_host(void*) noexcept override {}
  void upload(void*, const void*, size_t) override {}
  void download(void*, const void*, size_t) override {}
  void copy(void*, const void*, size_t) override {}
  void zero(void*, size_t) override {}
  void wait() override {}
  void start(const cuda::Launch& launch) override { text += launch.name; }
  std::unique_ptr<cuda::Graph> make_graph(std::span<const cuda::Launch> launches) override {
    if (full) throw Error("OUT_OF_MEMORY", "full");
    return std::make_unique<Page>(*this, launches);
  }
  size_t graph_limit() const override { return limit; }
  int multiprocessors() const override { return 1; }
  cuda::LibraryPlaces cublaslt_places() const override { return {}; }
  size_t free_bytes() const override { return 0; }

 private:
  class Page final : public cuda::Graph {
   public:
    Page(Diary& diary, std::span<const cuda::Launch> launches) : diary_(diary) {
      for (const cuda::Launch& launch : launches) text_ += launch.name;
    }
    void launch() override { diary_.text += "[" + text_ + "]"; }
    size_t bytes() const override { return diary_.each; }

   private:
    Diary& diary_;
    std::string text_;
  };
};

/// Letters are kernels, a capital one has another argument than its small one; '.' finishes the step, '!' leaves it.
void play(cuda::LaunchQueue& queue, const char* script) {
  static const char* const names[] = {"a", "b", "c", "d", "A", "B", "C", "D"};
  queue.begin();
  for (const char* at = script; *at; at++) {
    if (*at == '.') {
      queue.finish();
    } else if (*at == '!') {
      queue.leave();
    } else {
      const bool capital = *at < 'a';
      cuda::Launch launch;
      launch.name = names[(capital ? 4 : 0) + (*at - (capital ? 'A' : 'a'))];
      launch.kernel = reinterpret_cast<void (*)()>(&play);
      launch.grid = {static_cast<unsigned>(*at | 32), 1, 1};
      launch.add_argument<int32_t>(capital);
      queue.submit(launch);
    }
  }
  queue.end();
}

void steps_are_replayed_only_where_they_agree() {
  const auto after = [](std::initializer_list<const char*> scripts) {
    Diary diary;
    cuda::LaunchQueue queue(diary, diary.limit);
    for (const char* script : scripts) {
      diary.text.clear();
      play(queue, script);
    }
    return diary.text + " " + std::to_string(queue.recorded) + "/" + std::to_string(queue.replayed);
  };
  const auto is = [](const std::string& got, const std::string& want) {
    expect(got == want, "got " + got + ", expected " + want);
  };
  is(after({"abc."}), "abc 1/0");
  is(after({"abc.", "abc."}), "[abc] 1/1");
  is(after({"abc.d", "abc.d"}), "[abc]d 1/1");                       // what follows is not of the step
  is(after({"abc.", "abC."}), "abC 2/0");                            // another argument
  is(after({"abc.", "abC.", "abC."}), "[abC] 2/1");
  is(after({"abc.", "abC.", "abc."}), "[abc] 2/1");                  // both are known
  is(after({"abc.", "ab."}), "ab 2/0");                              // ends early: a step of its own
  is(after({"abc.", "ab.", "ab."}), "[ab] 2/1");
  is(after({"ab.", "abc.", "abc."}), "[abc] 2/1");                   // goes on
  is(after({"abc.", "ab!c."}), "abc 1/0");                           // left: in order, not recorded
  is(after({"abc.", "ab"}), "ab 1/0");                               // ends without being finished: done all the same
  is(after({"abc.", "ab", "abc."}), "[abc] 1/1");
  is(after({"a!bc.", "abc."}), "abc 1/0");                           // the first was left before it was recorded
  is(after({"abc.", "d.", "aBc.", "aBd.", "aBc."}), "[aBc] 4/1");

  Diary off;
  cuda::LaunchQueue never(off, 0);
  play(never, "abc."), play(never, "abc.");
  expect(off.text == "abcabc" && never.recorded == 0, "switched off, steps are still recorded");

  // Graphs for two: the least recently used gives way and is recorded again.
  Diary small;
  small.limit = 20;
  cuda::LaunchQueue two(small, small.limit);
  for (const char* script : {"a.", "a.", "b.", "b.", "c.", "c."}) play(two, script);
  expect(two.graph_bytes() == 20 && two.replayed == 3, "graphs over their limit");
  small.text.clear();
  play(two, "b."), play(two, "a.");
  expect(small.text == "[b]a", "got " + small.text);

  // One that is too large alone ends recording, and its step is done all the same.
  Diary tiny;
  tiny.limit = 5;
  cuda::LaunchQueue none(tiny, tiny.limit);
  for (int i = 0; i < 3; i++) play(none, "ab.");
  expect(tiny.text == "ababab" && !none.records() && none.refused_bytes() == 10, "got " + tiny.text);

  // A graph that cannot be made is an error, after the step's work was done.
  Diary broken;
  broken.full = true;
  cuda::LaunchQueue failing(broken, 1000);
  play(failing, "ab.");
  std::string code;
  try {
    play(failing, "ab.");
  } catch (const Error& error) {
    code = error.code;
  }
  failing.end();
  expect(code == "OUT_OF_MEMORY" && broken.text == "abab", "got " + code + " after " + broken.text);
}

/// A group and lone prompts of other lengths; tokens and log-probs one after the other, before and after a step of the
/// optimizer. Returns them with the counts of recorded steps.
std::pair<Tensor, Backend::StepCounts> sampled(const Device& device, DType dtype, bool graphs) {
  Device chosen = device;
  chosen.graphs = graphs, chosen.partition = "32";
  chosen.open(dtype);  // sets the environment
  EngineOptions options = tiny_options(chosen, dtype);
  options.sizes.max_sequences = 12;
  options.sizes.cache_tokens = 512;
  WaitingEngine engine(options);
  initialize(engine);
  std::vector<float> all;
  for (int round = 0; round < 2; round++) {
    // 12 sequences; the group of 9 ends after the first 6 tokens, then 3 go on.
    std::vector<GenerateRequest> requests(3);
    for (size_t r = 0; r < requests.size(); r++) {
      const int start = static_cast<int>(r);
      for (int i = 0; i < 12 + 11 * start; i++) requests[r].prompt.push_back((i * 5 + start) % 61);
      requests[r].count = r == 1 ? 9 : r == 0 ? 2 : 1;
      requests[r].max_new_tokens = r == 1 ? 6 : 14;
      requests[r].rule.seed = 3 + r;
      requests[r].rule.top_p = 0.9f;
    }
    for (const Completion& c : engine.generate(std::move(requests))) {
      all.insert(all.end(), c.tokens.begin(), c.tokens.end());
      all.insert(all.end(), c.logprobs.begin(), c.logprobs.end());
    }
    if (round > 0) break;
    const std::vector<int32_t> tokens{1, 2, 3, 4}, parents{-1}, lengths{4}, rows{0, 1, 2}, targets{2, 3, 4};
    const std::vector<float> weight(3, 1.0f);
    ForestRows r;
    r.rows = rows, r.targets = targets, r.ce_weight = weight;
    engine.run(Engine::Job::Kind::exclusive, [&](Engine::Core& core) {
      core.trainer.accumulate({tokens, parents, lengths}, r);
      core.trainer.step({.learning_rate = 0.05, .max_grad_norm = 1});
      engine.engine().weights_changed(true);
    });
  }
  Backend::StepCounts counts;
  engine.run(Engine::Job::Kind::shared, [&](Engine::Core& core) { counts = core.backend.step_counts(); });
  expect(engine.peak() <= engine.plan().total(), "peak over the plan");
  Tensor tensor = zeros("", 1, static_cast<int64_t>(all.size()));
  tensor.values = std::move(all);
  return {std::move(tensor), counts};
}

/// The same tokens and log-probs with graphs and without, and most decoding steps are replayed, weights changed or not.
void graphs_change_no_bit(const Device& device, DType dtype) {
  const auto [with, counts] = sampled(device, dtype, true);
  const auto [without, none] = sampled(device, dtype, false);
  expect_same_bits(with, without, "graphs on and off");
  const std::string got = std::to_string(counts.recorded) + " recorded, " + std::to_string(counts.replayed) + " replayed";
  // Two rounds of 13 decoding steps. Recorded are two sizes, each with a few numbers of tiles as keys come to partitions.
  expect(counts.replayed >= 13 && counts.recorded <= 10, got);
  for (const Backend::StepCounts& c : {counts, none}) {
    expect(c.steps >= 13 && c.waits == c.steps, "waits other than for the samples: " + std::to_string(c.waits) + " in " +
                                                    std::to_string(c.steps) + " steps");
  }
  expect(none.recorded == 0 && none.replayed == 0, "switched off, steps are still recorded");
}

/// cuBLASLt's products have their place in a recorded step. With and without graphs the number of rows differs, and with
/// it the order of additions; two runs with graphs do not.
void products_by_cublaslt_are_replayed(const Device& device, DType dtype) {
  const auto [first, counts] = sampled(device, dtype, true);
  const auto [second, again] = sampled(device, dtype, true);
  expect_same_bits(first, second, "two runs");
  expect(counts.replayed >= 13, std::to_string(counts.replayed) + " steps replayed");
}

}  // namespace

void decode_checks(std::vector<Check>& checks, const Device& device) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::string type = dtype == DType::f32 ? " fp32 " : " bf16 ";
    checks.push_back({"sharing tiles changes no bit" + type + device.name, [=] { sharing_changes_no_bit(device, dtype); }});
  }
}

void graph_checks(std::vector<Check>& checks, const Device& device) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::string type = dtype == DType::f32 ? " fp32 " : " bf16 ";
    checks.push_back({"engine, graphs change no bit" + type + device.name, [=] { graphs_change_no_bit(device, dtype); }});
    Device with_library = device;
    with_library.batch_invariant = false;
    if (!by_cublaslt(*with_library.open(dtype))) continue;
    checks.push_back({"engine, products by cublaslt are replayed" + type + device.name,
                      [=] { products_by_cublaslt_are_replayed(with_library, dtype); }});
  }
}

void plan_checks(std::vector<Check>& checks) {
  checks.push_back({"plans of attention hold what they must", plans_hold_what_they_must});
  checks.push_back({"groups share tiles where it pays", groups_are_shared_where_it_pays});
  checks.push_back({"steps are replayed only where they agree", steps_are_replayed_only_where_they_agree});
}

}  // namespace act::test
