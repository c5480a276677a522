"""Names that other tools have for an option, and what to write here instead.

The names come from nanoGPT, nanochat, minimind, litgpt, LLaMA-Factory, axolotl, transformers, trl, peft, DeepSpeed,
OpenRLHF, Firefly, and from habit.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from itertools import chain

# An answer is a flag, or a sentence that may contain flags. It applies to a command that has all of these flags. A
# sentence without a flag is paired with a key; it applies to commands that have the key. The first answer that applies
# is shown.
Answer = str | tuple[str, str]
_OF_MODELS, _OF_CORPORA, _OF_TRAINING = "int8", "work.workers", "run_dir"  # keys that only these commands have
_SHAPE_OR_WEIGHTS = "--init_from names a model whose weights to start from, --model.preset a shape with new weights"
_ADAPTERS = (_OF_TRAINING, "adapters belong to train_sft.py")
_SELECT = ((_OF_TRAINING, "cut the file first, with babyllm select"),)
_CHATS = (_OF_TRAINING, "conversations belong to train_sft.py")
_SAMPLING = (_OF_TRAINING, "it belongs to babyllm generate and babyllm chat")
_BEAMS = ("temperature", "answers are drawn here; beams belong to babyllm generate")
_MODEL: tuple[Answer, ...] = (
    "--init_from",
    (_OF_MODELS, "the model's directory is an argument of its own, before the flags"),
)
_LENGTH: tuple[Answer, ...] = ("--data.seq_len", "--seq_len", "--context", "--max_new_tokens", "--length.max")
_WORKERS: tuple[Answer, ...] = ("--work.workers", "--data.work.workers", "--runtime.threads")
TABLE: tuple[tuple[str, tuple[Answer, ...]], ...] = (
    # learning rate
    ("lr learning_rate max_lr peak_learning_rate base_lr max_learning_rate", ("--plan.peak_lr",)),
    ("min_lr min_learning_rate lr_min eta_min", ("--plan.min_lr",)),
    ("final_lr end_lr lr_end final_lr_frac", ("--plan.final_lr",)),
    (
        "warmup warmup_steps warmup_iters warmup_ratio lr_warmup_steps num_warmup_steps",
        ("--plan.warmup takes steps such as 100 or a share such as 0.05",),
    ),
    (
        "scheduler lr_scheduler lr_scheduler_type lr_schedule lr_decay_style",
        (("--plan.schedule names the shape; --plan.warmup, --plan.cosine, --plan.stable and --plan.decay its phases"),),
    ),
    ("lr_decay_iters lr_decay_steps decay_steps decay_ratio warmdown_ratio", ("--plan.decay",)),
    # length of the run
    ("epoch epochs num_epochs n_epochs max_epochs num_train_epochs num_episodes", ("--plan.epochs",)),
    (
        "steps max_steps num_steps total_steps train_steps max_train_steps max_iters iters num_iterations",
        ("--plan.steps",),
    ),
    (
        "max_tokens train_tokens max_train_tokens",
        ("--max_new_tokens", "set --plan.steps; a step reads --data.global_batch sequences of --data.seq_len tokens"),
    ),
    # batches
    (
        "bs batch batch_size global_batch_size total_batch_size train_batch_size rollout_batch_size",
        ("--data.global_batch", "--batch_tokens", "--slots"),
    ),
    (
        "micro_batch_size device_batch_size per_device_batch_size per_device_train_batch_size "
        "train_micro_batch_size_per_gpu",
        ("--data.micro_batch", "--batch_tokens"),
    ),
    ("per_device_eval_batch_size eval_batch_size", ("--batch_tokens", "--data.micro_batch")),
    (
        "accumulation grad_accum grad_accum_steps accumulation_steps gradient_accumulation "
        "gradient_accumulation_steps accumulate_grad_batches",
        (
            (
                "set --data.global_batch, the sequences of a step over all processes, and --data.micro_batch, those "
                "of one forward pass; accumulation follows"
            ),
        ),
    ),
    ("packing sample_packing neat_packing packing_samples", ("--data.pack", _CHATS)),
    (
        "workers num_workers dataloader_num_workers preprocessing_num_workers dataset_num_proc num_proc jobs",
        _WORKERS,
    ),
    # optimizer
    ("wd weight_decay", ("--optim.weight_decay",)),
    ("beta1 adam_beta1", ("--optim.beta1",)),
    ("beta2 adam_beta2", ("--optim.beta2",)),
    ("betas adam_betas", ("set --optim.beta1 and --optim.beta2",)),
    ("eps epsilon adam_eps adam_epsilon", ("--optim.eps",)),
    (
        "optim optimizer optimizer_name",
        ("--optim.matrices is adamw or muon, for the matrices of the blocks; the rest is trained with AdamW",),
    ),
    (
        "clip max_norm max_grad_norm grad_clip clip_grad clip_grad_norm gradient_clipping gradient_clip_val",
        ("--plan.clip_norm",),
    ),
    # where and how it computes
    ("device", ("--runtime.device",)),
    ("cpu use_cpu no_cuda", ("--runtime.device=cpu",)),
    ("cuda gpu use_gpu use_cuda", ("--runtime.device=cuda",)),
    ("dtype torch_dtype precision mixed_precision amp", ("--runtime.dtype",)),
    ("fp16 float16 half use_fp16", ("--runtime.dtype=float16",)),
    ("bf16 bfloat16 pure_bf16 use_bf16", ("--runtime.dtype=bfloat16",)),
    ("fp32 float32", ("--runtime.dtype=float32",)),
    ("compile torch_compile use_compile", ("--runtime.compile",)),
    ("dynamo_backend torchdynamo torch_compile_backend", ("--runtime.compile_backend",)),
    ("deterministic full_determinism", ("--runtime.deterministic",)),
    ("timeout ddp_timeout", ("--runtime.timeout_s",)),
    ("threads n_threads num_threads", ("--runtime.threads", "--work.workers")),
    (
        "deepspeed fsdp zero zero_stage zero_optimization strategy sharding_strategy",
        ("--parallel.shard divides the model among the processes: zero2, zero3 or hybrid; it needs no file",),
    ),
    ("tensor_parallel_size autotp_size", ("--parallel.tensor",)),
    ("sequence_parallel_size context_parallel_size ring_attn_size", ("--parallel.context",)),
    ("adam_offload offload_optimizer cpu_offload offload_param", ("--parallel.offload",)),
    (
        "flash_attn flash_attention use_flash_attention attn_implementation",
        (("runtime.dtype", "attention takes the fastest kernel that PyTorch has, which needs no option"),),
    ),
    ("int8 load_in_8bit quantization_8bit", ("--lora.base=int8", "--int8")),
    (
        "qlora load_in_4bit quantize quantization quantization_bit bnb_4bit_quant_type",
        ("--lora.base=nf4", "--int8"),
    ),
    ("bnb_4bit_use_double_quant use_double_quant double_quantization", ("--lora.double_quant",)),
    (
        "seed random_seed manual_seed",
        ("--plan.seed decides weights and dropout, --data.seed the order of the data", "--seed"),
    ),
    ("data_seed", ("--data.seed", "--seed")),
    # directories and files
    (
        "out output out_dir output_dir output_path save_path save_dir checkpoint_dir ckpt_dir ckpt_path log_dir "
        "logging_dir",
        (
            "--run_dir",
            (_OF_CORPORA, "the output is an argument of its own, after the input and before the flags"),
            "--json",
        ),
    ),
    ("model model_name", (_SHAPE_OR_WEIGHTS, *_MODEL[1:], "--model.preset")),
    (
        "pretrain model_name_or_path model_path base_model pretrained_model load_from load_weights from_weight "
        "init_checkpoint initial_checkpoint_dir",
        _MODEL,
    ),
    ("adapter adapter_name_or_path lora_path peft_model", _MODEL),
    (
        "input input_dir dataset datasets dataset_name dataset_dir data_path data_dir train_file train_files "
        "train_data",
        ("--data.path", "--data", (_OF_CORPORA, "the input is an argument of its own, before the flags")),
    ),
    ("eval_dataset eval_data validation_file val_file val_data test_file", ("--data.held_out_path", "--data")),
    (
        "val_size val_ratio val_set_size test_split validation_split_percentage",
        ("--data.held_out", "--held_out"),
    ),
    (
        "tokenizer tokenizer_name tokenizer_dir tokenizer_path tokenizer_name_or_path",
        (
            "--tokenizer",
            "the tokenizer is the one of the model in --init_from or of the shards in --data.path",
            (_OF_MODELS, "the tokenizer is the one beside the model"),
        ),
    ),
    (
        "resume resume_from auto_resume from_resume resume_from_checkpoint load_checkpoint",
        (
            "the same command with the same --run_dir goes on by itself",
            (_OF_CORPORA, "the same command goes on by itself"),
        ),
    ),
    ("overwrite_output_dir", ("a run never overwrites another; name a new directory with --run_dir",)),
    # records and checkpoints
    ("save_steps save_interval save_freq save_strategy checkpoint_every", ("--save_every",)),
    ("eval_steps eval_interval eval_freq eval_strategy evaluation_strategy val_interval", ("--eval_every",)),
    ("logging_steps log_interval log_steps log_freq", ("--log_every",)),
    ("save_total_limit keep_last keep_checkpoints max_checkpoints", ("--keep",)),
    ("patience early_stopping early_stopping_patience", ("--early_stop",)),
    ("metric_for_best_model greater_is_better best_metric", ("--best",)),
    (
        "load_best_model_at_end save_best",
        ("the best step by --best is always kept, and --early_stop makes it the one that the run stands for",),
    ),
    (
        "eval_iters eval_samples max_eval_samples",
        ("--data.eval_tokens", "--data.eval_conversations", "--max_tokens"),
    ),
    (
        "report_to wandb use_wandb wandb_log wandb_project use_swanlab tensorboard run_name",
        (("TensorBoard records and metrics.jsonl are always written to --run_dir; there is no other service"),),
    ),
    # shape of the model
    ("n_layer n_layers num_layers num_hidden_layers layers depth", ("--model.n_layers",)),
    ("n_embd n_embed embed_dim hidden_size d_model dim", ("--model.d_model",)),
    ("n_head n_heads num_heads num_attention_heads heads", ("--model.n_heads",)),
    ("n_kv_head n_kv_heads num_kv_heads num_key_value_heads n_query_groups", ("--model.n_kv_heads",)),
    ("intermediate_size d_ff ffn_dim hidden_dim ffn_hidden_size", ("--model.d_ff",)),
    ("vocab_size vocabulary_size", ("--model.vocab_size",)),
    (
        "max_position_embeddings n_ctx n_positions context_length",
        ("--model.max_seq_len", "--context", "--max_new_tokens", "--length.max"),
    ),
    (
        "max_len max_length max_seq_length max_seq_len block_size cutoff_len seq_len seq_length sequence_len "
        "sequence_length model_max_length",
        _LENGTH,
    ),
    ("rope_theta rope_base rotary_base", ("--model.rope_theta",)),
    ("rope_scaling inference_rope_scaling", ("--model.rope_scaling",)),
    ("tie_embeddings tie_weights tie_word_embeddings", ("--model.tie_embeddings",)),
    ("dropout attn_pdrop resid_pdrop attention_dropout hidden_dropout", ("--model.dropout",)),
    (
        "gradient_checkpointing activation_checkpointing use_gradient_checkpointing checkpoint_activations "
        "recompute recompute_granularity selective_ac",
        ("--model.activation_checkpointing",),
    ),
    (
        "bias use_moe trust_remote_code ddp_find_unused_parameters remove_unused_columns do_train do_eval do_predict "
        "overwrite_cache save_only_model",
        (("runtime.dtype", "there is nothing of the kind; leave it out"),),
    ),
    ("plot_loss", ((_OF_TRAINING, "loss.png is always written; leave it out"),)),
    ("max_samples max_train_samples", ("--data.registry names data sets, each with a limit", *_SELECT)),
    ("stage", ((_OF_TRAINING, "the command is the stage: babyllm pretrain, sft, reward, dpo or ppo; leave it out"),)),
    # adapters and frozen parts
    ("lora use_lora use_peft lora_r lora_rank r", ("--lora.rank", _ADAPTERS)),
    ("lora_alpha", ("--lora.alpha", _ADAPTERS)),
    ("lora_dropout", ("--lora.dropout", _ADAPTERS)),
    ("lora_target lora_targets lora_target_modules target_modules lora_modules", ("--lora.targets", _ADAPTERS)),
    ("rslora use_rslora", ("--lora.rslora",)),
    ("lora_plus loraplus_lr_ratio", ("--lora.lora_plus",)),
    (
        "finetuning_type",
        (
            (
                "--lora.rank above 0 trains an adapter; --freeze.last_n_layers and --freeze.parts leave some of the "
                "model as it is"
            ),
        ),
    ),
    ("freeze_trainable_layers num_layer_trainable", ("--freeze.last_n_layers",)),
    ("freeze_trainable_modules", ("--freeze.only",)),
    (
        "additional_target modules_to_save trainable_token_indices",
        ("the rows of new tokens are trained by themselves, which --lora.new_tokens=false switches off", _ADAPTERS),
    ),
    # the machine
    ("nproc_per_node num_processes num_gpus n_gpus gpus world_size", ("--runtime.processes",)),
    # conversations
    ("template template_name chat_template prompt_template prompt_style", ("--data.template", "--template", _CHATS)),
    ("max_source_length max_prompt_length prompt_max_len", ("--data.max_prompt", *_LENGTH)),
    (
        "max_target_length max_response_length max_answer_length generate_max_len",
        ("--data.max_answer", "--data.max_new_tokens", "--max_new_tokens"),
    ),
    ("input_key prompt_key", ("--data.format.prompt", "--format.prompt")),
    ("output_key response_key", ("--data.format.answer", "--format.answer")),
    ("chosen_key", ("--data.format.chosen",)),
    ("rejected_key", ("--data.format.rejected",)),
    ("pref_loss", ("--loss.name",)),
    ("pref_beta", ("--loss.beta",)),
    ("pref_ftx", ("--loss.sft_weight",)),
    ("init_kl_coef kl_coef", ("--loss.kl.coefficient",)),
    ("n_samples_per_prompt num_generations", ("--rollout.group",)),
    ("ppo_epochs num_ppo_epochs", ("--rollout.epochs",)),
    ("ppo_target kl_target", ("--loss.kl.target",)),
    ("critic_learning_rate critic_lr", ("--critic.lr is a multiple of --plan.peak_lr",)),
    ("actor_learning_rate actor_lr", ("--plan.peak_lr",)),
    ("reward_pretrain", ("--reward.model",)),
    ("train_on_prompt train_on_inputs mask_prompt", ("--data.prompts", "--supervise.prompts")),
    ("mask_history", ("--data.turns=last", "--supervise.turns=last")),
    ("dataset_format dataset_type formatting", ("--data.format.format", "--format.format")),
    ("text_column text_field text_key dataset_text_field json_keys", ("--read.text",)),
    ("mix mix_strategy interleave_probs probabilities data_mix", ("--data.mix", "--weights")),
    # generation and serving
    ("temp temperature", ("--temperature", _SAMPLING)),
    ("topp top_p nucleus", ("--top_p", _SAMPLING)),
    ("topk top_k", ("--top_k", _SAMPLING)),
    ("do_sample", ("--temperature=0 takes the most probable token each time, above 0 it draws",)),
    ("max_generated_tokens max_completion_tokens max_gen_len n_predict", ("--max_new_tokens",)),
    ("rep_penalty repeat_penalty presence_penalty frequency_penalty", ("--repetition_penalty",)),
    ("beams beam_size", ("--num_beams", _BEAMS)),
    ("num_beams length_penalty", (_BEAMS,)),
    ("system_prompt system_message default_system", ("--system", "--data.default_system")),
    (
        "prompt start start_text",
        ("--prompts", ("num_beams", "the prompt is an argument of its own, after the model's directory")),
    ),
    ("max_model_len ctx_size", ("--context",)),
    ("max_num_seqs parallel", ("--slots",)),
    ("served_model_name", ("--name",)),
    # corpora
    ("num_perm n_perm permutations", ("--minhash.permutations",)),
    ("ngram ngrams n_gram ngram_size", ("--shingles.n",)),
    ("similarity jaccard jaccard_threshold", ("--threshold",)),
    ("model_type", ("--type",)),
    ("min_length min_len", ("--length.min",)),
    ("encoding", ("--read.encoding",)),
)
NAMES = {name: answers for names, answers in TABLE for name in names.split()}
# Values that other tools have, a value of the same option here, and why it has no others.
_VALUES = (
    (
        "fp4 int4 uint4 fp8 4bit 8bit",
        "nf4",
        "nf4 is the 4-bit type, since its 16 values follow a normal distribution as weights do; the 8-bit type is int8",
    ),
)
_KEY = re.compile(r"--([a-z0-9_]+(?:\.[a-z0-9_]+)*)(?:=(\w+))?")


def instead(name: str, known: Collection[str], keys: Collection[str], *, is_flag: bool = True) -> str:
    """Advice on an unknown option: its name here, or else the most similar known name.

    Args:
        name: unknown name, from a flag or a file, with its section if one was written.
        known: names that could have been meant.
        keys: those of the known names that take a value.
        is_flag: whether the advice is for a command line; for a file it is written as YAML.
    """
    section, _, last = name.rpartition(".")
    in_section = any(f"--{key}" in NAMES.get(last, ()) for key in keys if key.startswith(f"{section}."))
    is_ours = section and any(key.rpartition(".")[2] == last for key in keys)  # only the section is wrong
    words = [] if is_ours and not in_section else [word.lower().replace("-", "_") for word in (name, last)]
    for found in chain.from_iterable(NAMES.get(word, ()) for word in words):
        need, answer = ("", found) if isinstance(found, str) else found
        if all(key in keys for key in named_keys(answer)) and (not need or need in keys):
            written = answer if is_flag else _KEY.sub(_in_yaml, answer)
            is_key = _KEY.fullmatch(answer)
            return f"did you mean {written}?" if is_key and not is_key[2] else f"write {written}" if is_key else written
    if not known:
        return "there are no options here"
    inner = (key for key in keys if key.startswith(f"{name}."))  # `name` is a section
    near = next(inner, None) or nearest(name, known)
    return f"did you mean --{near}?" if is_flag else f"did you mean '{near}'?"


def why_not(value: object, choices: Collection[object]) -> str:
    """The end of a message that refuses a value: "; " and a reason if other tools have the value, else an empty text.

    Args:
        value: what was given, a text or anything else.
        choices: values that the option accepts.
    """
    reasons = (reason for names, ours, reason in _VALUES if ours in choices and value in names.split())
    return "".join(f"; {reason}" for reason in reasons)


def named_keys(answer: str) -> list[str]:
    """The keys in an answer, all of which a command must have for the answer to apply."""
    return [key[1] for key in _KEY.finditer(answer)]


def _in_yaml(key: re.Match[str]) -> str:
    return f"'{key[1]}: {key[2]}'" if key[2] else f"'{key[1]}'"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known key most similar to `name`, as a whole and in its last part: `runtime.dtype` for `dtype`."""

    def likeness(key: str) -> float:
        ends = name.rpartition(".")[2], key.rpartition(".")[2]
        return SequenceMatcher(None, name, key).ratio() + SequenceMatcher(None, *ends).ratio()

    return max(known, key=likeness)
