#!/usr/bin/env python3
"""Golden numbers for engine/manifold from numpy and scikit-learn; writes golden.safetensors beside
itself. See README.md for versions."""
import json
import os
import struct

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.manifold import _t_sne
from sklearn.metrics import pairwise_distances, silhouette_samples, silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from scipy.spatial.distance import squareform

rng = np.random.default_rng(20261126)
out = {}


def put(name, array, dtype=np.float32):
    out[name] = np.ascontiguousarray(array, dtype=dtype)


def clusters(n, d, k, spread):
    """n points around k centres, axes of unequal scale, correlated."""
    scale = np.exp(rng.normal(size=d))
    mix = np.linalg.qr(rng.normal(size=(d, d)))[0]
    label = rng.integers(0, k, n)
    centre = spread * rng.normal(size=(k, d))
    x = ((centre[label] + rng.normal(size=(n, d))) * scale) @ mix + rng.normal(size=d)
    return x.astype(np.float32), label


# Principal components: more points than numbers, and fewer.
x, label = clusters(300, 20, 5, 1.2)
wide = (rng.normal(size=(60, 8)) @ rng.normal(size=(8, 200)) + 0.1 * rng.normal(size=(60, 200))).astype(np.float32)
for name, data, k in (("tall", x, 20), ("wide", wide, 12)):
    d64 = data.astype(np.float64)
    p = PCA(n_components=k, svd_solver="full").fit(d64)
    s = np.linalg.svd(d64 - d64.mean(0), compute_uv=False)
    assert np.allclose(p.explained_variance_, s[:k] ** 2 / (len(data) - 1))
    c = p.components_ * np.sign(p.components_[np.arange(k), np.abs(p.components_).argmax(1)])[:, None]
    put(f"pca.{name}.x", data)
    put(f"pca.{name}.components", c)
    put(f"pca.{name}.variance", p.explained_variance_)
    put(f"pca.{name}.total", [s @ s / (len(data) - 1)])
put("label", label, np.int32)

# Distances, neighbours, silhouette.
x64 = x.astype(np.float64)
for metric in ("euclidean", "cosine"):
    put(f"{metric}.distances", pairwise_distances(x64[:50], metric=metric))
    dist, index = NearestNeighbors(n_neighbors=7, metric=metric, algorithm="brute").fit(x64).kneighbors()
    put(f"{metric}.knn.index", index, np.int32)
    put(f"{metric}.knn.distance", dist)
    put(f"{metric}.silhouette", [silhouette_score(x64, label, metric=metric)])
    put(f"{metric}.silhouette.samples", silhouette_samples(x64, label, metric=metric))
    c = KNeighborsClassifier(5, metric=metric, algorithm="brute")
    put(f"{metric}.knn.predicted", cross_val_predict(c, x64, label, cv=LeaveOneOut()), np.int32)

# t-SNE: joint probabilities, gradient at a given map, end of the whole descent.
perplexity = 30
d2 = pairwise_distances(x64, metric="sqeuclidean").astype(np.float32)
P = _t_sne._joint_probabilities(d2, perplexity, 0)
y = rng.normal(size=(300, 2))
kl, grad = _t_sne._kl_divergence(y.ravel(), P, 1.0, 300, 2)
put("tsne.P.60", squareform(P)[:60])
put("tsne.y", y)
put("tsne.kl", [kl])
put("tsne.gradient", grad.reshape(300, 2))
# Descents are chaotic: where they end is a distribution, shown by six random starts and six starts from
# principal components that differ by a hundred-thousandth.
start = PCA(2).fit_transform(x64)
start *= 1e-4 / start[:, 0].std()
for name in ("random", "pca"):
    kl, s = [], []
    for seed in range(6):
        near = start * (1 + 1e-5 * np.random.default_rng(seed).normal(size=start.shape))
        t = TSNE(perplexity=perplexity, method="exact", init=near.astype(np.float32) if name == "pca" else "random",
                 random_state=seed, learning_rate="auto", n_iter=1000)
        z = t.fit_transform(x64)
        kl.append(t.kl_divergence_)
        s.append(silhouette_score(z, label))
    print("tsne", name, np.round(kl, 4), np.round(s, 3))
    put(f"tsne.{name}.kl", kl)
    put(f"tsne.{name}.silhouette", s)

header, at = {}, 0
for name, a in out.items():
    header[name] = {"dtype": {"float32": "F32", "int32": "I32"}[a.dtype.name], "shape": list(a.shape),
                    "data_offsets": [at, at + a.nbytes]}
    at += a.nbytes
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.safetensors"), "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in out.values()))
print(at, "bytes")
