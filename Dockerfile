# The HTTP service on a CPU. docs/deploying.md says how to build and run it.
FROM python:3.12-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Give PyTorch's index of CPU wheels: without CUDA, torch is several gigabytes smaller.
ARG TORCH_INDEX=
RUN pip install torch torchvision ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
COPY pyproject.toml README.md LICENSE ./
COPY image_text_embedding image_text_embedding
COPY configs configs
ARG EXTRAS=page,search
RUN pip install ".[$EXTRAS]"

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --create-home service && install -d -o service -g service /cache /data
COPY --from=build /opt/venv /opt/venv
# Weights, exported models and what Hugging Face downloads are kept in the volume.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    IMAGE_TEXT_EMBEDDING_HOME=/cache/image-text-embedding \
    HF_HOME=/cache/huggingface
USER service
WORKDIR /data
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["image-text-embedding"]
CMD ["serve", "--host", "0.0.0.0"]
