# The app with a pool of eight candidates, for a server of one's own or a Space of the Hub.
# Packages come while it is built; once it runs it needs no network, no root and no writable package.
#
#   docker build -t negmerge .
#   docker run --rm -p 7860:7860 negmerge                                     anybody may look, nothing changes
#   docker run --rm -p 7860:7860 -v "$PWD/people:/run/people:ro" -e NEGMERGE_AUTH=/run/people negmerge
FROM python:3.11.14-slim-bookworm AS build

# The CPU's wheels of PyTorch: those of the default index carry 5 GB of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/negmerge/bin:$PATH
WORKDIR /src
RUN python -m venv /opt/negmerge
COPY constraints.txt ./
RUN pip install --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY negmerge_kit ./negmerge_kit
RUN pip install -c constraints.txt ".[app]"
# A public app trains nothing, so the candidates are trained here.
RUN HF_HUB_OFFLINE=1 negmerge pool build tiny --out /srv/negmerge/pool

FROM python:3.11.14-slim-bookworm

ENV PATH=/opt/negmerge/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 PORT=7860
# 1000 is the user that Spaces run as.
RUN useradd --create-home --uid 1000 negmerge
COPY --from=build /opt/negmerge /opt/negmerge
COPY --from=build --chown=1000:1000 /srv/negmerge/pool /srv/negmerge/pool
COPY scripts/serve.sh /srv/negmerge/serve.sh
USER 1000
WORKDIR /home/negmerge
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as net; net.urlopen('http://127.0.0.1:' + os.environ['PORT'], timeout=4)"]
ENTRYPOINT ["sh", "/srv/negmerge/serve.sh"]
