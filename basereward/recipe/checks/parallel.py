"""Faults of training on several devices: steps that cannot be divided among them, and strategies that do not fit."""

from __future__ import annotations

from collections.abc import Iterator

from basereward.recipe.schema import Recipe


def num_devices(recipe: Recipe) -> int:
    """The number of processes on each machine that train a recipe together.

    >>> num_devices(Recipe())
    1
    """
    return recipe.trainer.devices or 1


def num_ranks(recipe: Recipe) -> int:
    """The number of processes that train a recipe together.

    >>> import dataclasses
    >>> trainer = dataclasses.replace(Recipe().trainer, devices=4, nodes=2)
    >>> num_ranks(Recipe(trainer=trainer))
    8
    """
    return num_devices(recipe) * recipe.trainer.nodes


def micro_batch_groups(recipe: Recipe) -> int:
    """The groups of one forward pass on one device: `batch.groups_per_forward`, or the device's share of a step if that
    is smaller.

    >>> import dataclasses
    >>> trainer = dataclasses.replace(Recipe().trainer, devices=32)
    >>> micro_batch_groups(Recipe()), micro_batch_groups(Recipe(trainer=trainer))
    (8, 4)
    """
    return max(1, min(recipe.batch.groups_per_forward, recipe.batch.groups // num_ranks(recipe)))


def batch_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """An optimizer step that is not a whole number of micro-batches on every device.

    With a token budget their number is free, and every device needs at least one group.

    >>> import dataclasses
    >>> list(batch_problems(Recipe(batch=dataclasses.replace(Recipe().batch, groups=12))))
    [('batch.groups', '12 is no multiple of groups_per_forward = 8')]
    >>> trainer = dataclasses.replace(Recipe().trainer, devices=3)
    >>> list(batch_problems(Recipe(trainer=trainer)))
    [('batch.groups', '128 is no multiple of groups_per_forward x trainer.devices = 8 x 3. ...')]
    >>> trainer = dataclasses.replace(Recipe().trainer, devices=32)
    >>> list(batch_problems(Recipe(trainer=trainer)))  # four groups on each
    []
    """
    batch, trainer, ranks = recipe.batch, recipe.trainer, num_ranks(recipe)
    if batch.groups_per_forward <= 0 or ranks <= 0:
        return
    factors = {"trainer.devices": num_devices(recipe), "trainer.nodes": trainer.nodes}
    several = {name: number for name, number in factors.items() if number > 1}
    in_pass = micro_batch_groups(recipe)
    if batch.tokens is None and batch.groups % (in_pass * ranks):
        names = " x ".join(["groups_per_forward", *several])
        numbers = " x ".join(map(str, [in_pass, *several.values()]))
        remedy = ". Change one of them, so that every device has the same number of micro-batches" if several else ""
        yield "batch.groups", f"{batch.groups} is no multiple of {names} = {numbers}{remedy}"
    elif batch.groups < ranks:
        yield "batch.groups", f"{batch.groups} groups cannot be divided among {ranks} devices; each needs one"


def strategy_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Options that cannot be combined with a model whose state is divided among devices.

    >>> import dataclasses
    >>> backbone = dataclasses.replace(Recipe().model.backbone, quantization="nf4")
    >>> model = dataclasses.replace(Recipe().model, backbone=backbone)
    >>> trainer = dataclasses.replace(Recipe().trainer, strategy="fsdp2", devices=2)
    >>> [key for key, message in strategy_problems(Recipe(model=model, trainer=trainer))]
    ['trainer.strategy']
    """
    trainer, backbone = recipe.trainer, recipe.model.backbone
    if trainer.strategy != "fsdp2":
        if trainer.shard != "weights":
            yield "trainer.shard", f"'{trainer.shard}' has no effect without trainer.strategy=fsdp2"
        return
    ddp = "Use trainer.strategy=ddp, which keeps a whole model on every device"
    if backbone.quantization is not None:
        yield (
            "trainer.strategy",
            f"fsdp2 given, and model.backbone.quantization is {backbone.quantization}: bitsandbytes packs these "
            f"weights as integers, which fsdp2 can neither divide nor gather here. {ddp}, or set quantization=null",
        )
    if recipe.optimizer.kind != "adamw":
        yield (
            "trainer.strategy",
            f"fsdp2 given, and optimizer.kind is {recipe.optimizer.kind}: bitsandbytes cannot update divided weights. "
            "Use optimizer.kind=adamw, whose states fsdp2 divides among the devices, or trainer.strategy=ddp",
        )
    if recipe.probe:
        yield "trainer.strategy", f"fsdp2 given, and a probe trains its head alone, which needs no division. {ddp}"
