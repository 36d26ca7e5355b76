# gate2static without a GPU:
#   docker build -t gate2static .
#   docker run --rm -v "$PWD:/work" gate2static train digits_tiny
FROM python:3.11-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY gate2static gate2static
COPY recipes recipes
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.11-slim
COPY --from=wheel /dist /dist
# These builds of torch bring no CUDA libraries, which are several GB.
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir "$(echo /dist/*.whl)[train,cpu]"
# The user of most machines with one user, so that what is written to /work belongs to them.
RUN useradd --create-home --uid 1000 user && install --directory --owner user /work
USER user
WORKDIR /work
RUN gate2static --help
ENTRYPOINT ["gate2static"]
CMD ["--help"]
