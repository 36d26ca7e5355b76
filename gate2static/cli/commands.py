"""The commands, in the order in which data flows. Each one calls the stage that its name says and prints the result."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gate2static.cli.arguments import (
    Checkpoint,
    DType,
    Json,
    Model,
    Overrides,
    PrecisionName,
    RecipePath,
    Resume,
    RunDir,
    SplitName,
    StaticDir,
    Target,
    Threads,
    Version,
    open_run,
    reference_first,
    say_cautions,
    show,
    show_report,
    show_trained,
    write_json,
)
from gate2static.cli.group import Commands
from gate2static.terminal import say

# Everything heavy (torch, matplotlib, the stages) is imported inside the commands, so that --help answers at once.

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors, and what libraries say.")] = False,
    version: Version = False,
) -> None:
    """Train multi-task networks whose tasks share channels, and prune each to one verified static network."""


@app.command()
def demo(
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Output folder.")] = Path("demo-run"),
    overrides: Overrides = None,
    json: Json = None,
) -> None:
    """Run every step on bundled real digits: train, prune, verify, export, time, report."""
    from gate2static.demo import run_demo

    show_report(run_demo(run_dir, overrides=overrides or ()), json)


@app.command()
def new(name: Annotated[str, typer.Argument(help="The name of the project, of its folder and its package.")]) -> None:
    """Write a small project that runs: your own data set, backbone, kind of task, training loop and recipe."""
    from gate2static.project import write_project

    folder = write_project(name, Path())
    say(f"written: {folder}; its README.md says what to type")


@app.command()
def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    resume: Resume = False,
    run_dir: RunDir = None,
    budget_ms: Annotated[
        float | None,
        typer.Option("--budget-ms", help="The most milliseconds for one sample on --device; implies preset: deploy."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="A latency table's JSON file, or a device such as jetson-orin-agx.")
    ] = None,
    json: Json = None,
) -> None:
    """Train single-task, shared and gated networks at the recipe's sparsity weight, or to its budget."""
    from gate2static.cli.option_checks import latency_overrides
    from gate2static.train import train as train_run

    loaded, folder = open_run(recipe, [*latency_overrides(budget_ms, device), *(overrides or ())], run_dir)
    show_trained({folder: train_run(loaded, folder, resume=resume)}, json)


@app.command()
def sweep(
    recipe: RecipePath,
    overrides: Overrides = None,
    resume: Resume = False,
    run_dir: RunDir = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Seeds such as 0,1,2: one run for each, in folders seed-0, seed-1 and so on."),
    ] = None,
    json: Json = None,
) -> None:
    """Train the baselines, and a network per sparsity weight, budget, method and architecture of the recipe."""
    from gate2static.cli.option_checks import runs_of_seeds
    from gate2static.train import sweep as sweep_run

    runs = {}
    for seed_overrides, folder_name in runs_of_seeds(seeds):
        loaded, folder = open_run(recipe, [*(overrides or ()), *seed_overrides], run_dir)
        runs[folder / folder_name] = sweep_run(loaded, folder / folder_name, resume=resume)
    show_trained(runs, json)


@app.command()
def search(
    recipe: RecipePath,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            help="What hands out trials: a data base such as postgresql://HOST/NAME, or a journal's path; a journal in "
            "the output folder by default.",
        ),
    ] = None,
) -> None:
    """Try many recipes: the same command again is one more worker, or goes on after an interruption."""
    from gate2static.search import search as search_run

    loaded, folder = open_run(recipe, overrides, run_dir)
    search_run(loaded, folder, storage=storage, say=say)
    say(f"searched: {folder}; see gate2static front {folder}")


@app.command()
def front(
    run_dirs: Annotated[list[Path], typer.Argument(help="Folders that `search` wrote.")],
    pick: Annotated[
        list[str] | None,
        typer.Option(
            "--pick",
            metavar="BOUND",
            help="Print only the folder of the best network with this bound, such as macs<=0.6; may be repeated.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="The page to write; front.html in the first folder by default.")
    ] = None,
    json: Json = None,
) -> None:
    """Show the networks of searches that no other network beats, as a table and as a page."""
    from gate2static.errors import SearchError
    from gate2static.files import write_atomically
    from gate2static.front.page import render_front
    from gate2static.front.pareto import as_json, pick_network, read_front
    from gate2static.front.table import front_table

    found = read_front(run_dirs)
    if pick:
        say(str(pick_network(found, pick).folder))
        return
    page = html or run_dirs[0] / "front.html"
    write_atomically(page, render_front(found).encode(), error=SearchError)
    show(front_table(found), json, as_json(found))
    if json != Path("-"):
        say(f"page: {page}")


@app.command()
def suggest_targets(
    run_dir: Annotated[Path, typer.Argument(help="A folder that `train` or `sweep` wrote.")], json: Json = None
) -> None:
    """Suggest hinge targets for the tasks of a run, from what they lose by sharing."""
    from gate2static.report.targets_table import targets_table
    from gate2static.train import suggest_for_run

    suggestions = suggest_for_run(run_dir)
    content = {task: asdict(suggestion) for task, suggestion in suggestions.items()}
    show(targets_table(suggestions), json, content)


@app.command()
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


@app.command()
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
    json: Json = None,
    model: Model = None,
) -> None:
    """Compare a static network with its gated network; exit status 1 if they are not equivalent."""
    from gate2static.pipeline import verify_folder
    from gate2static.report import checks_table

    verification = verify_folder(checkpoint, static_dir, onnx, inputs, model=model)
    show(checks_table(verification.manifest), json, verification.manifest.equivalence)
    if verification.report is None:
        say(
            "fine-tuned since it was pruned: compared with its ONNX file only, since it is not meant to compute what "
            f"{checkpoint} computes"
        )
    if verification.unrecorded:
        say(f"gate2static: not recorded: {verification.unrecorded}", error=True)
    verification.require()


@app.command()
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
    json: Json = None,
) -> None:
    """Write a static network as ONNX with a description and examples, and as .pt2 or engines; compared with torch."""
    from gate2static.cli.option_checks import batch_sizes, engine_backends
    from gate2static.export import export_table
    from gate2static.pipeline import export_folder

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
        **batch_sizes(batch),
    )
    show(export_table(exported.reports), json, {"folder": str(exported.folder), **exported.description})
    if json != Path("-"):
        for line in exported.description["trtexec"].values():
            say(f"on the board: {line}")
        say(f"exported: {exported.folder}")


@app.command()
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
    from gate2static.cli.option_checks import check_outputs, evaluation_recipe, share, use_threads
    from gate2static.report.evaluation_table import evaluation_table
    from gate2static.verify.task_metrics import evaluate_files

    most = None if max_drop is None else share(max_drop, option="--max-drop")
    check_outputs(json)
    use_threads(threads)
    evaluation = evaluate_files(
        networks, recipe=evaluation_recipe(recipe, overrides), split=split, images=images, model=model
    )
    show(evaluation_table(evaluation), json, evaluation.as_json())
    say_cautions(evaluation.cautions())
    if most is not None:
        evaluation.require(most)


@app.command()
def bench(
    targets: Annotated[list[str], typer.Argument(help="Static folders, .onnx or .engine files.")],
    backend: Annotated[list[str] | None, typer.Option("--backend", help="A backend; may be repeated.")] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="The target that others are compared with; the first by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Samples in one forward pass.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", help="The number of interleaved rounds.")] = 5,
    duration: Annotated[float, typer.Option("--duration", help="Timed seconds per network, over all rounds.")] = 3.0,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Time networks in interleaved rounds and compare them."""
    from gate2static.bench import benchmark, latency_table
    from gate2static.report import slower_than_separate

    report = benchmark(
        reference_first(targets, against),
        backends=backend,
        batch_size=batch_size,
        rounds=rounds,
        duration_s=duration,
        threads=threads,
    )
    show(latency_table(report), json, report.model_dump(mode="json"))
    say_cautions(slower_than_separate(report))


@app.command()
def profile(
    network: Annotated[
        Path | None, typer.Argument(help="STATIC_DIR or CKPT; layers of common backbones by default.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", dir_okay=False, help="The latency table to write.")] = Path(
        "profile.json"
    ),
    backend: Annotated[str, typer.Option("--backend", help="The backend that runs the layers.")] = "onnxruntime",
    threads: Threads = None,
    emit: Annotated[
        Path | None,
        typer.Option("--emit", metavar="DIR", help="Write ONNX files and a script for trtexec on a board, and end."),
    ] = None,
    precision: Annotated[
        PrecisionName, typer.Option("--precision", help="With --emit: what trtexec computes in.")
    ] = "fp16",
    import_dir: Annotated[
        Path | None, typer.Option("--import", metavar="DIR", help="Make the table of what that script measured.")
    ] = None,
    json: Json = None,
    model: Model = None,
) -> None:
    """Measure the latency of layers, for predictions with `predict` and for budgets: here, or on a board by trtexec."""
    from gate2static.cli.option_checks import check_kit, check_outputs
    from gate2static.profiling import profile_for, profile_table, read_kit, write_kit

    emitted = check_kit(network, emit, import_dir)
    if emitted is not None:
        files = write_kit(*emitted, precision=precision, model=model)
        say(f"emitted: {emit}: {files} ONNX files; run `sh run.sh` in this folder on the board, then copy it back")
        return
    check_outputs(output, json)
    table = (
        read_kit(import_dir)
        if import_dir
        else profile_for(network, backend=backend, threads=threads, model=model)
    )
    table.save(output)
    show(profile_table(table), json, table.model_dump(mode="json"))
    if json != Path("-"):
        say(f"profiled: {output}")


@app.command()
def predict(
    static_dir: StaticDir,
    latency: Annotated[
        str,
        typer.Option(
            "--latency",
            help="A file that `profile` wrote, or a device: orin (jetson-orin-agx), orin-nano (jetson-orin-nano), t4, "
            "a100, h100, cpu-2-core.",
        ),
    ],
    precision: Annotated[
        PrecisionName | None, typer.Option("--precision", help="What it computes in; as it is stored by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples in one forward pass.")] = 1,
    json: Json = None,
) -> None:
    """Predict a static network's latency, operator by operator, without running it."""
    from gate2static.latency import latency_model
    from gate2static.latency import predict as predict_latency
    from gate2static.static import load_static

    static = load_static(static_dir)
    network, inputs = static.deployed(), static.example_inputs(batch_size)
    prediction = predict_latency(network, inputs, latency_model(latency), precision=precision)
    show(prediction.table(), json, prediction.as_json())


@app.command()
def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(help="A folder that `train`, `sweep` or `demo` wrote; several give their means.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The page's folder; needed for several runs.")
    ] = None,
    json: Json = None,
) -> None:
    """Write report.html and its pictures for a run, or for several runs that differ in their seeds."""
    from gate2static.cli.option_checks import report_folder
    from gate2static.report import write_report, write_report_of_runs

    folder = report_folder(run_dirs, output)
    show_report(write_report(run_dirs[0]) if folder is None else write_report_of_runs(run_dirs, folder), json)


@app.command()
def deliver(
    run_dir: Annotated[Path, typer.Argument(help="A folder that `train` or `sweep` wrote.")],
    trt_rtx: Annotated[bool, typer.Option("--trt-rtx", help="Build TensorRT-RTX engines too.")] = False,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Prune, verify, export and time every network of a run, and write the report."""
    from gate2static.delivering import deliver as deliver_run

    show_report(deliver_run(run_dir, engines=trt_rtx, threads=threads), json)


@app.command()
def recipes(
    copy: Annotated[
        str | None, typer.Option("--copy", metavar="NAME", help="Copy this recipe into the working folder.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show every key that a recipe may have.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")] = False,
) -> None:
    """List the recipes that came with the package; `train` and `sweep` take their names."""
    from gate2static.cli.recipe_answers import answer_about_recipes

    answer_about_recipes(copy=copy, explain=explain, schema=schema)


@app.command()
def doctor(json: Json = None) -> None:
    """Show the backends that this machine can run, and how to get the others."""
    from gate2static.bench import diagnose, findings_table

    findings = diagnose()
    show(findings_table(findings), json, [asdict(finding) for finding in findings])
