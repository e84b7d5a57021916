"""What a run reports: the bars of the speed issue, and a chart."""

from __future__ import annotations

from pathlib import Path

from encode_bench.measuring import Bench


def bars(bench: Bench) -> list[tuple[str, str, str]]:
    """The table of the speed issue: (what, its figure and bar, reached / missed / not measured)."""

    def fastest(tower: str, against: str, precision: str, cosine: float = 0.0) -> str:
        """The fastest backend with this precision; those whose vectors reach `cosine` come first. "": none."""
        prefix, suffix = f"{tower}: ", f" / {against}"
        names = [
            name for name in bench.found if name.startswith(prefix) and name.endswith(suffix) and precision in name
        ]
        candidates = []
        for name in names:
            backend = name.removeprefix(prefix).removesuffix(suffix)
            close = (of(f"{prefix}{backend}, least cosine") or 1.0) >= cosine
            candidates.append((close, bench.found[name]["median"], backend))
        return max(candidates, default=(False, 0.0, ""))[2]

    def minimum(*values: float | None) -> float | None:
        return None if None in values else min(value for value in values if value is not None)

    def of(name: str) -> float | None:
        return bench.value(name)

    one, two = "transformers, 32 padded to the longest", "transformers, 32 padded to 35"
    own, peak, cosine = ", share of the tower's own speed", ", share of the matrix peak", ", least cosine"
    differs = "largest difference to transformers"
    on_cpu = bench.device.type == "cpu"  # a GPU computes in half precision
    longer = of("growth, blip_demo: memory of the longest / of a tenth of it")
    copies = of("memory: anonymous memory that loading took / size of the weights")
    fast = [of(f"files, 12 MP: cosine of fast to exact, {kind}") for kind in ("made-up weights", "blip_demo")]
    # All bars of a precision are of the same backend.
    fp32, int8 = fastest("image tower", "transformers", "fp32"), fastest("image tower", "transformers", "int8", 0.995)
    int8_text = fastest("text tower", one, "int8", 0.99)
    rows: list[tuple[str, float | None, float, bool]] = [  # what, figure, bar, whether more is better
        ("image tower fp32, torch / transformers", of("image tower: ours / transformers"), 1.6, True),
        ("image tower fp32, vectors' difference", of(f"image tower: {differs}") if on_cpu else None, 1e-5, False),
        ("image tower fp32, best backend / transformers", of(f"image tower: {fp32} / transformers"), 1.95, True),
        ("image tower fp32, best backend, % of peak", of(f"image tower: {fp32}{peak}"), 95, True),
        ("image tower int8 / transformers", of(f"image tower: {int8} / transformers"), 4.3, True),
        ("image tower int8, least cosine", of(f"image tower: {int8}{cosine}"), 0.995, True),
        ("text tower fp32 / padded to the longest", of(f"text tower: ours / {one}"), 1.8, True),
        ("text tower fp32 / padded to 35", of(f"text tower: ours / {two}"), 3.2, True),
        ("text tower fp32, vectors' difference", of(f"text tower: {differs}") if on_cpu else None, 1e-5, False),
        ("text tower int8 / padded to the longest", of(f"text tower: {int8_text} / {one}"), 4, True),
        ("text tower int8, least cosine", of(f"text tower: {int8_text}{cosine}"), 0.99, True),
        ("files, 640 px, % of the tower's speed", of(f"files, 640 px: ours, exact{own}"), 95, True),
        ("files, 12 MP, fast, fp32, % of the tower's speed", of(f"files, 12 MP: ours, fast{own}"), 90, True),
        ("files, 12 MP, fast, int8, % of the tower's speed", of(f"files, 12 MP: {int8}, fast{own}"), 80, True),
        ("files, 12 MP, cosine of fast to exact", minimum(*fast), 0.99, True),
        ("memory from 10^3 to 10^4 pictures, change", None if longer is None else abs(longer - 1), 0.05, False),
        ("memory, copies of the weights", copies, 1.1, False),
        ("import, seconds more than Python", of("start: import image_text_embedding"), 1.0, False),
    ]
    if not on_cpu:
        rows += [
            ("GPU fp16 / transformers fp16, batched", of("image tower: ours / transformers"), 3, True),
            ("GPU fp16, % of peak", of(f"image tower: ours{peak}"), 45, True),
        ]
    else:
        rows += [("GPU fp16 / transformers fp16: no CUDA here", None, 3, True)]
    verdicts = []
    for what, figure, bar, more in rows:
        reached = figure is not None and (figure >= bar if more else figure <= bar)
        verdict = "not measured" if figure is None else "reached" if reached else "missed"
        shown = "-" if figure is None else f"{figure:.4g}"
        verdicts.append((what, f"{shown:>10}  (at {'least' if more else 'most'} {bar:g})", verdict))
    return verdicts


def chart(bench: Bench, path: Path) -> None:
    """Draw the speeds with their spread, a panel for each kind of work."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    speeds = {name: figure for name, figure in bench.found.items() if figure["unit"] == "/s"}
    panels = {
        panel: {name.removeprefix(f"{panel}: "): v for name, v in speeds.items() if name.startswith(f"{panel}: ")}
        for panel in ("image tower", "text tower", "files, 640 px", "files, 12 MP")
    }
    panels = {name: rows for name, rows in panels.items() if rows}
    if not panels:
        return
    heights = [len(rows) + 1.5 for rows in panels.values()]
    figure, axes = plt.subplots(len(panels), 1, figsize=(10, 0.34 * sum(heights)), height_ratios=heights, squeeze=False)
    for (name, rows), axis in zip(panels.items(), axes[:, 0]):
        values = [each["median"] for each in rows.values()]
        spread = [
            [each["median"] - each["lowest"] for each in rows.values()],
            [each["highest"] - each["median"] for each in rows.values()],
        ]
        colors = ["0.6" if key.startswith("transformers") else "#2a6f97" for key in rows]
        axis.barh(list(rows), values, xerr=spread, color=colors, height=0.7, error_kw={"lw": 1, "capsize": 2})
        axis.bar_label(axis.containers[-1], [f" {value:,.3g}" for value in values], padding=4, fontsize=8)
        axis.set_title(f"{name}, items per second", loc="left", fontsize=10, weight="bold")
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
