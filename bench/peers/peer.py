"""PyTorch, transformers and TRL as peers of `npm run bench`.

One process a workload. It builds a randomly initialized Llama of the given shape, warms up, prints {"ready": true, ...}
and then does one timed repetition for every line read from standard input, answering {"seconds": s}. The caller
alternates these repetitions with ours. At end of input it prints {"peak_rss_bytes": n}.

Needs torch, transformers, and for `grpo` also trl, datasets and tokenizers; downloads nothing.
"""
import argparse
import json
import os
import resource
import sys
import time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_DISABLED="true",
                  TOKENIZERS_PARALLELISM="false")
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

OUT = os.fdopen(os.dup(1), "w")  # answers; libraries that print to stdout are sent to stderr
os.dup2(2, 1)

with open(os.path.join(os.path.dirname(__file__), "..", "shapes.json"), encoding="utf8") as f:
    SHAPES = json.load(f)


def answer(**fields):
    OUT.write(json.dumps(fields) + "\n")
    OUT.flush()


def make_model(shape, dtype):
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=True,
                         bos_token_id=0, eos_token_id=0, pad_token_id=0, attn_implementation="sdpa")
    return LlamaForCausalLM(config).to(torch.bfloat16 if dtype == "bf16" else torch.float32)


def logprobs(model, _):
    ids = torch.randint(1, model.config.vocab_size, (8, 256))

    def run():
        with torch.inference_mode():
            z = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            return torch.gather(z, -1, ids[:, 1:, None]).squeeze(-1) - torch.logsumexp(z, -1)
    return run


def train(model, _):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(1, model.config.vocab_size, (8, 256))

    def run():
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return run


def sample32(model, _):
    model.eval()
    ids = torch.randint(1, model.config.vocab_size, (32, 32))
    mask = torch.ones_like(ids)

    def run():
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=64, min_new_tokens=64,
                                 do_sample=True, top_k=0, use_cache=True, eos_token_id=None, pad_token_id=0)
        assert out.shape == (32, 96)
    return run


def grpo(model, args):
    """TRL's GRPOTrainer, 4 prompts x 8 completions of exactly 64 tokens, beta 0, one update a batch. Blocks until done."""
    import random
    import tempfile

    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, TrainerCallback

    words = [f"w{i}" for i in range(3000)]
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([" ".join(words)], trainers.BpeTrainer(
        vocab_size=min(model.config.vocab_size, 2048), special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<pad>", eos_token="<eos>", padding_side="left")
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    random.seed(0)
    steps = 1000  # more than the caller will ask for
    data = Dataset.from_dict({"prompt": [" ".join(random.choices(words, k=24)) for _ in range(4 * steps)]})
    config = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=32, num_generations=8, max_completion_length=64,
        max_steps=steps, beta=0.0, learning_rate=1e-6, logging_steps=10**9, save_strategy="no", report_to=[],
        use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, gradient_accumulation_steps=1,
        temperature=1.0, disable_tqdm=True, dataloader_pin_memory=False, generation_kwargs={"min_new_tokens": 64})
    state = {"begun": 0.0, "steps": 0}

    class Turns(TrainerCallback):
        def on_step_begin(self, _args, _state, control, **_kw):
            # Step 0 warms up; from then on every step waits for its turn.
            if state["steps"] == 1:
                answer(ready=True, torch=torch.__version__, transformers=transformers.__version__, trl=trl.__version__)
            if state["steps"] >= 1 and not sys.stdin.readline():
                answer(peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
                os._exit(0)
            state["begun"] = time.perf_counter()

        def on_step_end(self, _args, _state, control, **_kw):
            if state["steps"] >= 1:
                answer(seconds=time.perf_counter() - state["begun"])
            state["steps"] += 1

    # Generation of a step happens inside training_step, after on_step_begin, so the time of a turn is the whole step.
    trl.GRPOTrainer(model=model, reward_funcs=lambda completions, **_: [float(len(set(c))) for c in completions],
                    args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Turns()]).train()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=["logprobs", "train", "sample32", "grpo"])
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    run = globals()[args.workload](make_model(args.shape, args.dtype), args)
    run()
    answer(ready=True, torch=torch.__version__, transformers=transformers.__version__)
    while sys.stdin.readline():
        begun = time.perf_counter()
        run()
        answer(seconds=time.perf_counter() - begun)
    answer(peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


main()
