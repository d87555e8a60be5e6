@echo off
rem  A night's run in two steps:
rem    1. make a manifest of the recordings,
rem    2. transcribe them on all devices,
rem  and then act on the exit code, which is also this file's own.
rem
rem  Whatever follows the name goes to step 2, so this takes up what failed before:
rem
rem      run_batch.bat --retry-failed
rem
rem  Every night at 22:30, by the Task Scheduler:
rem
rem      schtasks /Create /SC DAILY /ST 22:30 /TN audio-batch /TR "\"C:\path to\run_batch.bat\" --until 07:00"
rem
rem  --until begins nothing that would not be done by then. The Task Scheduler's own limit ("Stop
rem  the task if it runs longer than") ends programs without a word: what is being transcribed is
rem  lost, though not what is done. A closed window, a log-off and a shutdown leave four seconds;
rem  the state is saved in them. The Task Scheduler lowers the priority by itself; to do so here too,
rem  add --nice 10 --ionice low.
rem
rem  Where a database exports the manifest, put that export in the place of step 1.

setlocal EnableExtensions DisableDelayedExpansion

rem  %~dp0 is the folder of this file, with a backslash at its end.
set "RECORDINGS=%~dp0audio"
set "MANIFEST=%~dp0assets.json"
set "OUTPUT=%~dp0out"
set "LOG=%~dp0run_batch.log"
rem  At a time: this many on one GPU, and this many in all. Right for two GPUs of 8 GB or more.
set "MAX_PER_GPU=2"
set "THREADS=4"

rem  A virtual environment beside this file goes before the rest of PATH.
set "PATH=%~dp0venv\Scripts;%PATH%"
rem  Names and texts in all languages, here and in the log.
set "PYTHONUTF8=1"
chcp 65001 >nul
rem  audio-batch.toml is looked for in the current folder first.
cd /d "%~dp0"

rem  "call", because some installers put a .bat of that name on PATH; without it this file would
rem  end there.
echo ==== %DATE% %TIME% >>"%LOG%"
call audio-batch --version >>"%LOG%" 2>&1
if not "%ERRORLEVEL%"=="0" goto not_found

rem  ---- Step 1. Unreadable files stay in, so that step 2 says what is wrong with them.
call audio-batch manifest create "%RECORDINGS%" -o "%MANIFEST%" --force --keep-unreadable >>"%LOG%" 2>&1
set "CODE=%ERRORLEVEL%"
if not "%CODE%"=="0" goto no_manifest

rem  ---- Step 2.
call audio-batch run "%MANIFEST%" -o "%OUTPUT%" -y -t %THREADS% --max-per-gpu %MAX_PER_GPU% %* >>"%LOG%" 2>&1
set "CODE=%ERRORLEVEL%"

rem  Compared as text: "if errorlevel 1" means "1 or more", and is false for the negative codes of
rem  programs that crash.
if "%CODE%"=="0" goto all_done
if "%CODE%"=="2" goto usage
if "%CODE%"=="3" goto some_failed
if "%CODE%"=="4" goto bad_manifest
if "%CODE%"=="5" goto environment
if "%CODE%"=="11" goto locked
if "%CODE%"=="130" goto interrupted
goto internal

:all_done
echo Every recording is done: "%OUTPUT%"
goto leave

:some_failed
echo Some recordings failed, the others are done: "%OUTPUT%"
call audio-batch status "%OUTPUT%" --failed
echo Mend or replace them and start again; --retry-failed also tries those that have not changed.
goto leave

:locked
echo Another run is at work in "%OUTPUT%": this one did nothing.
goto leave

:interrupted
echo The run was stopped. What was done is kept; start again to go on.
goto leave

:usage
echo A flag or a setting is wrong; nothing was begun. See the end of "%LOG%".
goto leave

:bad_manifest
echo The manifest "%MANIFEST%" is not valid; nothing was begun. See the end of "%LOG%".
goto leave

:environment
echo A model, a device or space is missing. See the end of "%LOG%".
goto leave

:no_manifest
echo Step 1 made no manifest of "%RECORDINGS%". See the end of "%LOG%".
goto leave

:not_found
echo audio-batch cannot be started. Install it, or make a virtual environment in "%~dp0venv".
set "CODE=5"
goto leave

:internal
echo audio-batch failed with exit code %CODE%. See the end of "%LOG%".

:leave
endlocal & exit /b %CODE%
