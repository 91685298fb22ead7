# The sources as they are built: a copy, so that nothing is left in the checkout.

# Sets $source, $version and, for everything that has a date, SOURCE_DATE_EPOCH.
take_source() {
  source=$work/source
  mkdir "$source"
  (cd "$checkout" && cp -a appliance packaging systemd pyproject.toml README.md LICENSE CHANGELOG.md "$source")
  find "$source" -name __pycache__ -prune -exec rm -rf {} +
  version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$source/appliance/__init__.py")$suffix
  sed -i "s/^__version__ = .*/__version__ = \"$version\"/" "$source/appliance/__init__.py"
  if [ ! "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git -C "$checkout" log -1 --format=%ct 2>/dev/null) || SOURCE_DATE_EPOCH=$(date +%s)
  fi
  export SOURCE_DATE_EPOCH
}

# make_wheel DIR [PIP OPTIONS]: build the wheel into a folder: $wheel.
make_wheel() {
  "${pip[@]}" wheel --no-deps --wheel-dir "$@" "$source"
  wheel=$(echo "$1"/registry_appliance-"$version"-*.whl)
}
