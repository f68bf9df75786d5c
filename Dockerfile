# Images with the package installed from its wheel, and the versions of constraints.txt.
#   docker build --target cpu  --tag basereward:cpu .
#   docker build --target cuda --tag basereward:cuda .
# Work in a folder of your own, in which runs/, mlflow.db and ./experiments lie:
#   docker run --rm --volume "$PWD":/workspace basereward:cpu train basereward --profile tiny
#   docker run --rm --gpus all --volume "$PWD":/workspace basereward:cuda train basereward --profile qwen2_5_vl_7b ...
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS wheel
WORKDIR /src
COPY constraints.txt .
RUN pip install --no-cache-dir --constraint constraints.txt build setuptools
COPY pyproject.toml setup.cfg setup.py README.md LICENSE ./
COPY basereward basereward
COPY experiments experiments
RUN python -m build --no-isolation --wheel --outdir /dist

FROM python:${PYTHON}-slim AS base
# Caches of checkpoints and rows go beside the user's files, so that the next container finds them.
ENV HF_HOME=/workspace/.cache/huggingface BASEREWARD_CACHE=/workspace/.cache/basereward MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /workspace
COPY constraints.txt /opt/constraints.txt
ENTRYPOINT ["basereward"]
CMD ["--help"]

FROM base AS cpu
# torch first and from its own index: what comes after finds it there and brings no CUDA.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' /opt/constraints.txt)"
RUN --mount=from=wheel,source=/dist,target=/dist pip install --no-cache-dir --constraint /opt/constraints.txt /dist/*.whl

FROM base AS cuda
# The wheels of torch bring CUDA; the driver comes from the host. Triton compiles with gcc.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir "$(grep '^torch==' /opt/constraints.txt)"
RUN --mount=from=wheel,source=/dist,target=/dist pip install --no-cache-dir --constraint /opt/constraints.txt /dist/*.whl
