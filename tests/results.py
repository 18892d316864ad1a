#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what a test run really did, from the files that the runners wrote.

    results.py DIR     DIR/unit-*.json (meson), scenario-*.xml (pytest), steps (one "NAME STATUS" a line)

    results.py --again XML       the pytest ids of what failed in a run, when they are few

A scenario that failed is run once more where few did (contrib/test), since a machine with other work on it can be
late for a time limit. DIR/again-*.xml says how that went: what passed then counts as passed and is named.

Prints each failure and, last, "N passed, N failed". A cmocka program counts as its test functions. Exit 1 on any
failure, and when nothing passed.
"""
import json
import pathlib
import re
import sys
import xml.etree.ElementTree

OK = re.compile(r'^\[ +OK +\] (\S+)', re.M)
FAILED = re.compile(r'^\[ +FAILED +\] (\w+)$', re.M)


def meson_results(path):
    """(name, passed, what it said) for each test of a meson testlog.json."""
    for line in path.read_text().splitlines():
        test = json.loads(line)
        name = f'{path.stem}/{test["name"].split(" / ")[-1]}'
        text = (test.get('stdout') or '') + (test.get('stderr') or '')
        passed = test['result'] in ('OK', 'EXPECTEDFAIL')
        if test['result'] == 'SKIP':
            continue
        failed = set(FAILED.findall(text))
        for function in OK.findall(text):
            if function not in failed:
                yield f'{name}/{function}', True, ''
        for function in sorted(failed):
            yield f'{name}/{function}', False, text[-3000:]
        if not passed and not failed:
            yield name, False, f'{test["result"]}, status {test.get("returncode")}\n{text[-3000:]}'
        elif passed and not OK.search(text):
            yield name, True, ''


def pytest_results(path):
    for case in xml.etree.ElementTree.parse(path).iter('testcase'):
        name = f'{path.stem}/{case.get("classname")}/{case.get("name")}'
        wrong = [*case.findall('failure'), *case.findall('error')]
        if wrong:
            yield name, False, '\n'.join((w.text or w.get('message') or '')[-3000:] for w in wrong)
        elif case.find('skipped') is None:
            yield name, True, ''


AGAIN_AT_MOST = 6


def failed_ids(path):
    """pytest's ids of the failed cases of a junit file; none when they are too many to be an accident."""
    ids = []
    for case in xml.etree.ElementTree.parse(path).iter('testcase'):
        if case.find('failure') is not None or case.find('error') is not None:
            test = case.get('classname').replace('.', '/') + '.py::' + case.get('name')
            if test not in ids:
                ids.append(test)
    return ids if len(ids) <= AGAIN_AT_MOST else []


def passed_again(logs):
    """Names of scenarios, as pytest_results() has them, that passed when they were run once more."""
    wrong, right = set(), set()
    for path in logs.glob('again-*.xml'):
        for name, passed, _ in pytest_results(path):
            (right if passed else wrong).add(name.replace('again-', 'scenario-', 1))
    return right - wrong


def main():
    if sys.argv[1] == '--again':
        print('\n'.join(failed_ids(pathlib.Path(sys.argv[2]))))
        return
    logs = pathlib.Path(sys.argv[1])
    results = []
    steps = logs / 'steps'
    if steps.exists():
        for line in steps.read_text().splitlines():
            name, status = line.split()
            if status != '0':
                results.append((name, False, f'see {logs}/{name.replace("/", "-")}.log'))
    for path in sorted(logs.glob('unit-*.json')):
        results.extend(meson_results(path))
    for path in sorted(logs.glob('scenario-*.xml')):
        results.extend(pytest_results(path))
    again = passed_again(logs)
    for name in sorted({name for name, passed, _ in results if not passed and name in again}):
        print(f'PASSED ONLY WHEN IT WAS RUN ONCE MORE: {name}')
    results = [(name, True, '') if name in again else (name, passed, text) for name, passed, text in results]
    failed = [r for r in results if not r[1]]
    for name, _, text in failed:
        print(f'FAILED {name}')
        print('\n'.join('    ' + line for line in text.strip().splitlines()[-25:]))
    print(f'{len(results) - len(failed)} passed, {len(failed)} failed')
    sys.exit(1 if failed or not results else 0)


if __name__ == '__main__':
    main()
