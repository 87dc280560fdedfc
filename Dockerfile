# syntax=docker/dockerfile:1.7
# docker build --tag youju:cpu .                             for any machine
# docker build --tag youju:gpu --build-arg VARIANT=gpu .     for NVIDIA GPUs
ARG VARIANT=cpu

# faiss with CUDA is built for Python 3.12 and later.
FROM python:3.11-slim-trixie AS python-cpu
FROM python:3.12-slim-trixie AS python-gpu

FROM python-${VARIANT} AS build
ARG VARIANT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/youju
# First what seldom changes: the packages, at the versions of the lock.
COPY requirements.lock pyproject.toml ./
COPY .ci/image_requirements.py .ci/
RUN --mount=type=cache,target=/root/.cache/pip \
    set -eu; index=""; \
    if [ "$VARIANT" = cpu ]; then index="--extra-index-url https://download.pytorch.org/whl/cpu"; fi; \
    python .ci/image_requirements.py "$VARIANT" > /tmp/requirements.txt; \
    /opt/youju/bin/pip install $index --constraint requirements.lock \
       --requirement /tmp/requirements.txt
COPY README.md LICENSE youju.py youju_start.py ./
COPY rag rag
COPY ingest ingest
COPY api api
COPY eval eval
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint requirements.lock hatchling \
    && pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
    && /opt/youju/bin/pip install --no-deps /tmp/wheel/*.whl \
    && /opt/youju/bin/youju --version

FROM python-${VARIANT} AS serve
LABEL org.opencontainers.image.title="Youju" \
      org.opencontainers.image.description="Question answering over your own documents, with citations that can be checked" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 youju \
    && useradd --uid 10001 --gid youju --home-dir /data --no-create-home --shell /usr/sbin/nologin youju \
    && install --directory --owner=youju --group=youju --mode=0700 /data
COPY --from=build /opt/youju /opt/youju
# Everything that is written goes to /data and /tmp: the rest may be read-only.
ENV PATH=/opt/youju/bin:$PATH \
    HOME=/data \
    HF_HOME=/data/hub \
    YOUJU_HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=120s --retries=3 \
    CMD ["python", "-I", "-m", "api.health"]
ENTRYPOINT ["youju"]
CMD ["serve", "--host", "0.0.0.0"]
