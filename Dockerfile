# One image for every process: `docker run skewless COMMAND`. Checked statically (tests/test_deploy.py).
# The tag names a patch release; where builds have to be the same to the byte, add its digest.
FROM python:3.12.11-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/skewless
ENV PATH=/opt/skewless/bin:$PATH

WORKDIR /build
COPY constraints.txt ./
# The CPU build of torch is a tenth of the size of the default one, and is not on PyPI.
RUN pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch numpy

COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY features features
COPY datasets datasets
COPY models models
COPY index index
COPY streams streams
COPY serving serving
COPY evaluation evaluation
COPY entrypoints entrypoints
COPY skewless_client skewless_client
RUN pip install -c constraints.txt '.[cpu,demo,registry]'

FROM python:3.12.11-slim-bookworm

# Volumes that are mounted here take over the owner of these directories.
RUN useradd --uid 10001 --create-home skewless \
    && mkdir -p /srv/skewless/state \
    && chown -R skewless:skewless /srv/skewless
COPY --from=build /opt/skewless /opt/skewless

ENV PATH=/opt/skewless/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SKEWLESS_DATA_DIR=/srv/skewless
USER skewless
WORKDIR /srv/skewless
VOLUME /srv/skewless
EXPOSE 8080

# Of the server, which is what the image runs by default; the other processes have their own in
# docker-compose.yml.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]

ENTRYPOINT ["skewless"]
CMD ["serve"]
