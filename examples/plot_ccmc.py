"""Why generated text repeats itself
=================================

One attention layer says the next token with the probability that a base chain gives,
times how often the token is in the text already. Text that feeds on itself collapses:
shares of most tokens die out as powers of its length.
"""

import matplotlib.pyplot as plt
import torch

from attnchain.methods.ccmc import (
    expected_frequencies,
    fit_trajectory,
    generate,
    growth_exponents,
)

# %%
# A base chain over four tokens, and 40 texts that begin with each of them five times.
base = torch.tensor(
    [
        [0.5, 0.2, 0.2, 0.1],
        [0.3, 0.3, 0.2, 0.2],
        [0.2, 0.4, 0.3, 0.1],
        [0.4, 0.1, 0.1, 0.4],
    ]
).double()
prompt = torch.arange(4).repeat(5)
generator = torch.Generator().manual_seed(0)
texts = generate(base, prompt.expand(40, -1), 5000, generator=generator)

lengths = torch.tensor([20, 50, 100, 200, 500, 1000, 2000, 5000])
whole = torch.cat([prompt.expand(40, -1), texts], 1)
shares = torch.stack(
    [(whole[:, :t, None] == torch.arange(4)).double().mean(1) for t in lengths]
)
expected = expected_frequencies(base, prompt.bincount().double(), lengths)

# %%
# Where one token is all of the text, counts of the others grow with these exponents.
# Below one for all: it has won for good.
for token in range(4):
    alone = torch.eye(4)[token]
    print(
        token, "alone:", [round(a, 2) for a in growth_exponents(base, alone).tolist()]
    )

# %%
# The base chain can be read back from one text. Rows of tokens that died out stay
# uncertain, and the standard errors say so.
fit = fit_trajectory(whole[0], 4, prompt=len(prompt))
print("samples of each row", fit.samples.tolist())
print("error of each row", (fit.matrix - base).abs().sum(1).div(2))

figure, (first, second) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for token in range(4):
    first.loglog(lengths, shares[:, :, token], color=f"C{token}", lw=0.3, alpha=0.5)
    first.loglog(lengths, expected[:, token], color=f"C{token}", label=f"token {token}")
first.set(xlabel="length of the text", ylabel="share", title="40 texts, and expected")
first.legend()
for row in range(4):
    places = torch.arange(4) + 0.15 * (row - 1.5)
    errors = 1.96 * fit.standard_errors[row]
    second.errorbar(places, fit.matrix[row], errors, fmt="o", ms=3, color=f"C{row}")
    second.plot(places, base[row], "_", ms=12, color=f"C{row}", label=f"after {row}")
second.set(xlabel="next token", title="Read back from one text (true: dashes)")
second.set(xticks=range(4), ylim=(-0.2, 1.1))
second.legend(fontsize=8, ncols=4, loc="upper center")
plt.show()
