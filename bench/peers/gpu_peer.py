"""PyTorch on the GPU, one JSON line {"name", "seconds"} for all that `act_cuda_test --speed` also times.

Same shapes, bf16, random data. Attention is SDPA's flash kernel on the flattened batch: what a trainer without a token
forest would run for the same loss. The training step is transformers' Qwen3 with torch.compile and fused AdamW. Decoding
is transformers' `generate`, every sequence with a prompt of its own (no cache shares one), with its growing cache and with
its static one, which it compiles; the faster counts, and "how" says which. Both are left out, with a line on stderr, where
transformers is missing or memory does not reach. Needs torch with CUDA; downloads nothing.

`--small` does the same with toys on the CPU, to try the script; its times mean nothing.
"""
import argparse
import json
import os
import sys
import time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

parser = argparse.ArgumentParser()
parser.add_argument("--small", action="store_true")
SMALL = parser.parse_args().small
DEVICE = "cpu" if SMALL else "cuda"
assert SMALL or torch.cuda.is_available(), "gpu_peer.py needs a GPU (or --small)"
torch.manual_seed(1)


def fresh(*shape, dtype=torch.bfloat16, grad=False):
    return torch.randn(*shape, device=DEVICE, dtype=dtype, requires_grad=grad)


def wait():
    if not SMALL:
        torch.cuda.synchronize()


def median(times):
    return sorted(times)[len(times) // 2]


def timed(call):
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def write(name, seconds, **more):
    print(json.dumps({"name": name, "seconds": seconds, **more}), flush=True)


def report(name, call):
    """Median over five rounds of calls queued back to back, as on our side."""
    def once(calls):
        return timed(lambda: [call() for _ in range(calls)]) / calls
    once(3)
    calls = max(1, min(200, int(0.05 / once(3))))
    write(name, median([once(calls) for _ in range(5)]))


def products(name, m, n, k):
    x, w, dy = fresh(m, k), fresh(n, k), fresh(m, n)
    report(f"linear {name}", lambda: x @ w.t())
    if m >= (64 if SMALL else 1024):
        report(f"linear_backward_input {name}", lambda: dy @ w)
        report(f"linear_backward_weight {name}", lambda: dy.t() @ x)


def attention(name, batch, length, heads=16, kv_heads=8, dim=128):
    q = fresh(batch, heads, length, dim, grad=True)
    k, v = fresh(batch, kv_heads, length, dim, grad=True), fresh(batch, kv_heads, length, dim, grad=True)

    def forward():
        with sdpa_kernel(SDPBackend.MATH if SMALL else SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    with torch.no_grad():
        report(f"attention {name}", forward)
    out, dout = forward(), fresh(batch, heads, length, dim)
    report(f"attention_backward {name}", lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))


def layers(rows, width):
    x, w = fresh(rows, width), fresh(width)
    report("rms_norm", lambda: F.rms_norm(x, (width,), w, 1e-6))
    p = fresh(rows, width, dtype=torch.float32, grad=True)
    p.grad = fresh(rows, width, dtype=torch.float32)
    report("adamw", torch.optim.AdamW([p], fused=True).step)


# hidden, layers, heads, key-value heads, head size, intermediate, vocabulary, tied: as in native/test/cuda_speed_engine.cc
SHAPES = {
    "toy": (32, 2, 4, 2, 16, 48, 61, True),
    "0.6B": (1024, 28, 16, 8, 128, 3072, 151936, True),
    "8B": (4096, 36, 32, 8, 128, 12288, 151936, False),
}


def model_of(shape):
    """transformers' Qwen3 of random weights in bf16."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    hidden, depth, heads, kv_heads, dim, intermediate, vocabulary, tied = SHAPES[shape]
    config = Qwen3Config(vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=depth, num_attention_heads=heads,
                         num_key_value_heads=kv_heads, head_dim=dim, intermediate_size=intermediate,
                         tie_word_embeddings=tied, max_position_embeddings=8192, attn_implementation="sdpa",
                         bos_token_id=None, eos_token_id=None, pad_token_id=0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # an 8B of fp32 would not fit on the way
    try:
        with torch.device(DEVICE):
            return Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def where_it_fits(name, run):
    try:
        run()
    except (ImportError, torch.OutOfMemoryError) as error:
        print(f"{name}: left out, {error}", file=sys.stderr)
    if not SMALL:
        torch.cuda.empty_cache()


def training_step(name, shape, batch, length):
    """Full fine-tuning, loss on every token; the logits of the whole vocabulary exist for all of them."""
    model = model_of(shape).train()
    compiled = model if SMALL else torch.compile(model)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    ids = torch.randint(0, model.config.vocab_size, (batch, length), device=DEVICE)

    def step():
        compiled(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)
    report(name, step)


def decode(name, shape, batch, prompt, steps):
    """Time of a decoding step: long generations minus short ones, as on our side."""
    model = model_of(shape).eval()
    ids = torch.randint(0, model.config.vocab_size, (batch, prompt), device=DEVICE)
    mask = torch.ones_like(ids)
    few = steps // 4
    times = {}

    def generate(tokens, cache):
        return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens,
                              do_sample=True, top_k=0, **cache)

    def step(cache):
        generate(few, cache), generate(steps, cache)  # compiles, and takes its memory
        return median([(timed(lambda: generate(steps, cache)) - timed(lambda: generate(few, cache))) / (steps - few)
                       for _ in range(3)])
    for how, cache in (("growing cache", {}), ("static cache, compiled", {"cache_implementation": "static"})):
        def run():
            times[how] = step(cache)
        where_it_fits(f"{name}, {how}", run)
    if times:
        how = min(times, key=times.get)
        write(name, times[how], how=how)


if SMALL:
    for m in (1, 64):
        products(f"toy up M={m}", m, 48, 32)
    attention("2 x 24 causal", 2, 24, 4, 2, 16)
    layers(64, 32)
    where_it_fits("training", lambda: training_step("training step toy 2 x 24", "toy", 2, 24))
    where_it_fits("decode", lambda: decode("decode toy 2 x 2, prompt 9", "toy", 4, 9, 8))
else:
    for m in (1, 8, 64, 256, 4096):
        products(f"0.6B up M={m}", m, 3072, 1024)
    for m in (1, 256, 4096):
        products(f"8B up M={m}", m, 12288, 4096)
    attention("4 x 4096 causal", 4, 4096)
    attention("700 + 8 x 300", 8, 1000)  # the group, flattened
    layers(16384, 1024)
    where_it_fits("training", lambda: training_step("training step 0.6B 4 x 4096", "0.6B", 4, 4096))
    where_it_fits("decode 0.6B", lambda: decode("decode 0.6B 32 x 8, prompt 700", "0.6B", 256, 700, 64))
    where_it_fits("decode 8B", lambda: decode("decode 8B 1 x 1, prompt 64", "8B", 1, 64, 64))
