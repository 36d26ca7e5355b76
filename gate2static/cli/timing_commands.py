"""The commands about time and about this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gate2static.cli.arguments import (
    Json,
    Model,
    PrecisionName,
    StaticDir,
    Threads,
    reference_first,
    say_cautions,
    show,
    tell,
)
from gate2static.terminal import say


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
        line = f"emitted: {emit}: {files} ONNX files; run `sh run.sh` in this folder on the board, then copy it back"
        tell(line, json, {"folder": str(emit), "onnx_files": files})
        return
    check_outputs(output)
    table = (
        read_kit(import_dir)
        if import_dir
        else profile_for(network, backend=backend, threads=threads, model=model)
    )
    table.save(output)
    show(profile_table(table), json, table.model_dump(mode="json"))
    if json != Path("-"):
        say(f"profiled: {output}")


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


def doctor(json: Json = None) -> None:
    """Show the backends that this machine can run, and how to get the others."""
    from gate2static.bench import diagnose, findings_table

    findings = diagnose()
    show(findings_table(findings), json, [asdict(finding) for finding in findings])
