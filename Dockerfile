# An image whose command is wsiseg.
#
#   docker build -t wsiseg .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD":/data wsiseg run slide.svs
#
# PyTorch from the default package index needs no GPU and uses an NVIDIA GPU where there is one
# (docker run --gpus all …); the image has about 9 GB. For another build of PyTorch give the address
# of its index, e.g. the one for CPUs alone, which makes the image about 6 GB smaller:
#
#   docker build --build-arg TORCH_INDEX=ADDRESS -t wsiseg .
ARG PYTHON=3.13
FROM python:${PYTHON}-slim

ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /app
COPY constraints.txt ./
RUN pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY workflows workflows
COPY wsi_pipeline wsi_pipeline
RUN pip install -c constraints.txt '.[train,workflow]'

# Compiled functions and the user's own files go where any user may write.
ENV NUMBA_CACHE_DIR=/tmp/numba HOME=/tmp
RUN useradd wsiseg
USER wsiseg
WORKDIR /data
ENTRYPOINT ["wsiseg"]
CMD ["--help"]
