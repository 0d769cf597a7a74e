"""The picture of the causal benchmark: the way up, moves needed, edges found."""

import matplotlib.pyplot as plt
import numpy as np

COLOURS = {"zigzag": "C0", "reversible": "C1"}


def draw(tables, traces, sachs_names, asia_names):
    """Two rows: the processes on uniform targets, and edge probabilities of data."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 9.4), layout="constrained")
    way_up(traces, axes[0, 0])
    needed(tables["All classes alike, sampled"], axes[0, 1])
    edges(tables["Edges of Sachs"], sachs_names, axes[1, 0], "Sachs, 853 cells, BIC")
    image = edges(
        tables["Edges of Asia"], asia_names, axes[1, 1], "Asia, 2,000 rows, BDeu"
    )
    label = "probability that the pair is adjacent"
    figure.colorbar(image, ax=axes[1, :], label=label, shrink=0.8)
    return figure


def way_up(traces, ax):
    for process, colour in COLOURS.items():
        moves = 1 + 10 * np.arange(len(traces[process]))
        ax.plot(moves, traces[process], color=colour, label=process, linewidth=1)
    ax.set(xlabel="moves from the empty graph", ylabel="edges")
    ax.set_title("50 nodes, all classes alike")
    ax.legend()


def needed(rows, ax):
    seen = set()
    for process, colour in COLOURS.items():
        own = [row for row in rows if row["process"] == process]
        own = [row for row in own if row["moves per edge count"]]
        own.sort(key=lambda row: row["nodes"])
        nodes = [row["nodes"] for row in own]
        seen.update(nodes)
        means, halves = np.array([row["moves per edge count"] for row in own]).T
        style = {"color": colour, "marker": "o", "capsize": 3, "label": process}
        ax.errorbar(nodes, means, halves, **style)
    ax.set(xscale="log", yscale="log", xlabel="nodes")
    ax.set_xticks(sorted(seen), sorted(seen))
    ax.minorticks_off()
    ax.set_ylabel("moves per independent number of edges")
    ax.set_title("all classes alike, five runs, 95 % intervals")
    ax.legend()


def edges(rows, names, ax, title):
    """Adjacency probabilities; pairs of the accepted network are framed."""
    place = {name: i for i, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    for row in rows:
        i, j = (place[name] for name in row["pair"])
        matrix[i, j] = matrix[j, i] = row["adjacent"]
        if row["accepted"]:
            for x, y in ((i, j), (j, i)):
                box = plt.Rectangle((x - 0.42, y - 0.42), 0.84, 0.84, fill=False)
                box.set(edgecolor="crimson", linewidth=1.5)
                ax.add_patch(box)
    image = ax.imshow(matrix, cmap="Greys", vmin=0, vmax=1)
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set_title(f"{title} (framed: accepted network)")
    return image
