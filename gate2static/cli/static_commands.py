"""The commands from a checkpoint to a network that can be deployed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gate2static.cli.arguments import (
    Checkpoint,
    DType,
    Json,
    Model,
    Overrides,
    SplitName,
    StaticDir,
    Target,
    Threads,
    say_cautions,
    show,
    write_json,
)
from gate2static.terminal import say

if TYPE_CHECKING:
    from gate2static.verify.task_metrics import Evaluation


def prune(
    checkpoint: Checkpoint,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the static network.")] = None,
    align: Annotated[int, typer.Option("--align", help="Keep a multiple of this many channels per layer.")] = 1,
    target: Annotated[Target, typer.Option("--target", help="The runtime to lay the network out for.")] = "any",
    dtype: Annotated[
        DType | None, typer.Option("--dtype", help="The static network's dtype; as trained by default.")
    ] = None,
    dynamic: Annotated[
        str | None,
        typer.Option(
            "--dynamic",
            metavar="SIZES",
            help="The sizes of images that are free, such as height,width, where nothing depends on them.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", metavar="TASKS", help="The tasks that the static network has, such as seg,depth; all by default."
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            metavar="KEY=VALUE",
            help="Make the least certain gates shared until the network costs at most this, such as macs=0.5; may be "
            "repeated.",
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show the channels that stay in each layer, and the operators without a rule."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.")] = False,
    threads: Threads = None,
    model: Model = None,
    json: Json = None,
) -> None:
    """Remove the channels that no task uses: a checkpoint becomes a static network."""
    from gate2static.cli.option_checks import check_json_of_prune, check_prune_output, prune_request
    from gate2static.pipeline import prepare_pruning, prune_to_folder
    from gate2static.prune import barrier_costs
    from gate2static.report import barrier_table, expected_to_be_slow, plan_table, pruned_line

    check_prune_output(checkpoint, output, dry_run=dry_run, budget=bool(budget))
    check_json_of_prune(output, json, dry_run=dry_run)
    request = prune_request(
        align=align,
        target=target,
        dtype=dtype,
        dynamic=dynamic,
        tasks=tasks,
        budget=budget,
        threads=threads,
        model=model,
    )
    pruning = prepare_pruning(checkpoint, request)
    # Written before anything is printed, so that a terminal that fails costs nothing.
    pruned = None if output is None or dry_run else prune_to_folder(pruning, output)
    cautions = expected_to_be_slow(pruning.plan)
    if pruned is not None:
        write_json(json, {"folder": str(output), "cautions": cautions, **pruned.as_json()})
    if json == Path("-"):
        return
    if pruning.projected:
        say(f"budget: {pruning.projected.report}")
    if explain or dry_run:
        show(plan_table(pruning.plan))
        if costs := barrier_costs(pruning.plan.channels):
            show(barrier_table(costs))
    if pruned is None or output is None:
        return
    if pruned.broken_promise:
        say(
            f"budget: {pruned.broken_promise}; --align, --target or --dtype change that cost, it is not promised here"
        )
    if pruned.checkpoint:
        say(f"projected: {pruned.checkpoint}; verify the static network with it")
    say(pruned_line(pruned.static.manifest, output))
    say_cautions(cautions)


def verify(
    checkpoint: Checkpoint,
    static_dir: StaticDir,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Also compare this fp32 ONNX file.")] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs", help="Compare on these preprocessed inputs (.npy, or .npz and .safetensors by input name)."
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Also write the result into the static network's manifest, for reports.")
    ] = False,
    json: Json = None,
    model: Model = None,
) -> None:
    """Compare a static network with its gated network; exit status 1 if they are not equivalent."""
    from gate2static.pipeline import verify_folder
    from gate2static.report import checks_as_json, checks_table
    from gate2static.report import record as record_checks

    verification = verify_folder(checkpoint, static_dir, onnx, inputs, model=model)
    show(checks_table(verification.checks), json, checks_as_json(verification.checks))
    if verification.report is None:
        say(
            "fine-tuned since it was pruned: compared with its ONNX file only, since it is not meant to compute what "
            f"{checkpoint} computes",
            error=json == Path("-"),  # JSON on stdout stays alone
        )
    try:
        # The manifest says of a failure too.
        if record:
            record_checks(static_dir, verification.checks)
    finally:
        # Networks that differ are the graver news than a folder that cannot be written.
        verification.require()


def export(
    static_dir: StaticDir,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output folder; exports/<run>-<network> by default.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX (always written).")] = False,
    pt2: Annotated[bool, typer.Option("--pt2", help="Write a torch.export archive.")] = False,
    trt: Annotated[bool, typer.Option("--trt", help="Build a TensorRT engine for this machine's GPU.")] = False,
    trt_rtx: Annotated[bool, typer.Option("--trt-rtx", help="Build a TensorRT-RTX engine, for any GPU.")] = False,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            "--compute-capability",
            help="A GPU for TensorRT-RTX to build for, such as 8.9; this machine's by default; may be repeated.",
        ),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to int8; needs --calibration.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            help="For int8: a recipe (its training images), a folder of pictures, or float32 inputs (.npy).",
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="For --trt: a file that keeps layers' times for later builds.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", help="The opset of ONNX files, 12 and newer; 20 by default.")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch", metavar="N|MIN,USUAL,MAX", help="The only batch size, or the range of engines; 1,1,8 by default."
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="A,B", help="Only these tasks; what only others need is left out.")
    ] = None,
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Take pictures as bytes (N, H, W, C), normalised inside.")
    ] = False,
    argmax: Annotated[bool, typer.Option("--argmax", help="Give the index of a class instead of logits.")] = False,
    max_drop: Annotated[
        str | None,
        typer.Option(
            "--max-drop",
            metavar="SHARE",
            help="Write nothing, with exit status 1, if a task gets worse in an ONNX file by more, such as 1%.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="For --max-drop: the recipe with the data; the run's by default.")
    ] = None,
    overrides: Overrides = None,
    split: Annotated[SplitName, typer.Option("--split", help="For --max-drop: the split to measure on.")] = "test",
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="For --max-drop: only the first images of the split.")
    ] = None,
    json: Json = None,
) -> None:
    """Write a static network as ONNX with a description and examples, and as .pt2 or engines; compared with torch."""
    from gate2static.cli.option_checks import batch_sizes, engine_backends, evaluation_recipe, share
    from gate2static.export import export_table
    from gate2static.pipeline import export_folder
    from gate2static.report.tables.evaluation_table import evaluation_table

    most = None if max_drop is None else share(max_drop, option="--max-drop")
    data = {"recipe": evaluation_recipe(recipe, overrides), "split": split, "images": images}
    if most is None and (recipe or images or split != "test"):
        raise typer.BadParameter("--recipe, --split and --images say what --max-drop is measured on; add --max-drop 1%")

    def judge(evaluation: "Evaluation") -> None:
        if json != Path("-"):
            show(evaluation_table(evaluation))
        say_cautions(evaluation.cautions())
        evaluation.require(most or 0.0)

    engines = engine_backends(
        trt=trt, trt_rtx=trt_rtx, fp16=fp16, int8=int8, compute_capability=compute_capability
    )
    exported = export_folder(
        static_dir,
        output,
        tasks=None if tasks is None else [task.strip() for task in tasks.split(",")],
        onnx=True,
        pt2=pt2,
        engines=engines,
        precision="fp16" if fp16 else "int8" if int8 else "fp32",
        calibration=calibration,
        compute_capabilities=compute_capability,
        timing_cache=timing_cache,
        opset=opset,
        preprocess=preprocess,
        argmax=argmax,
        judge=None if most is None else judge,
        data=data,
        **batch_sizes(batch),
    )
    show(export_table(exported.reports), json, {"folder": str(exported.folder), **exported.description})
    if json != Path("-"):
        for line in exported.description["trtexec"].values():
            say(f"on the board: {line}")
        say(f"exported: {exported.folder}")


def evaluate(
    networks: Annotated[
        list[Path], typer.Argument(help="The reference first: checkpoints, static or export folders, .onnx files.")
    ],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="The recipe with the data; that of the networks' run by default.")
    ] = None,
    overrides: Overrides = None,
    split: Annotated[SplitName, typer.Option("--split", help="The split to measure on.")] = "test",
    images: Annotated[int | None, typer.Option("--images", min=1, help="Only the first images of the split.")] = None,
    max_drop: Annotated[
        str | None,
        typer.Option("--max-drop", metavar="SHARE", help="Exit status 1 if a task gets worse by more, such as 1%."),
    ] = None,
    threads: Threads = None,
    json: Json = None,
    model: Model = None,
) -> None:
    """Measure every task of a network in all its forms, such as int8, side by side on a data set."""
    from gate2static.cli.option_checks import evaluation_recipe, share, use_threads
    from gate2static.report.tables.evaluation_table import evaluation_table
    from gate2static.verify.task_metrics import evaluate_files

    most = None if max_drop is None else share(max_drop, option="--max-drop")
    use_threads(threads)
    evaluation = evaluate_files(
        networks, recipe=evaluation_recipe(recipe, overrides), split=split, images=images, model=model
    )
    show(evaluation_table(evaluation), json, evaluation.as_json())
    say_cautions(evaluation.cautions())
    if most is not None:
        evaluation.require(most)
